"""A COCO file of one's own."""

import pytest

from tests.helpers.own_coco import OwnCoco


@pytest.fixture
def coco(tmp_path) -> OwnCoco:
    return OwnCoco(tmp_path)
