"""What several parts of the campaign work on."""

import pytest

from tests.helpers.trainings import make_sample
from tests.helpers.untrained import save_untrained


@pytest.fixture(scope="session")
def datasets_root(tmp_path_factory):
    """A folder with the data set ``synthfashion`` of 14 small photos."""
    root = tmp_path_factory.mktemp("datasets")
    make_sample(root)
    return root


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A model of random weights that finds three garments on each photo."""
    return save_untrained(tmp_path_factory.mktemp("weights"), opts=["TEST.DETECTIONS_PER_IMAGE", "3"])
