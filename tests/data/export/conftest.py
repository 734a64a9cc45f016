"""A data set with predictions that is exported in every form."""

import numpy as np
import pytest

from kgdet_d2.data.export.photos import ExportedDataset
from tests.helpers.columns import columns


@pytest.fixture
def dataset(scene, tmp_path) -> ExportedDataset:
    """Of each schema; a third of the garments have no visible landmark."""
    truth, predictions = columns(scene)
    assert truth.no_visible_by_class.any() and (np.diff(truth.garment_offsets) == 0).any()
    return ExportedDataset(annotations=truth, image_root=str(tmp_path / "photos"), predictions=predictions)
