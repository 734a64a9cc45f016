"""Random data sets that are registered, for the tests of commands on stored predictions."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from kgdet_d2.schema import DEEPFASHION2, FLD, KeypointSchema
from tests.helpers.columns import columns
from tests.helpers.scenes import Scene, random_scene

NAME = "test_stored_predictions"


def register(records: list[dict], schema: KeypointSchema) -> None:
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(keypoint_schema=schema, thing_classes=list(schema.class_names))


@pytest.fixture
def catalog() -> Iterator[Callable[..., None]]:
    """Registers under NAME, and forgets."""
    yield register
    for each in (DatasetCatalog, MetadataCatalog):
        if NAME in each:
            each.remove(NAME)


def random_case(schema: KeypointSchema, **options: int) -> Scene:
    """A scene of three classes with the attributes ``source`` and ``scale``."""
    rng = np.random.default_rng(3)
    scene = random_scene(rng, schema, images=15, classes=[0, 1, 2], **options)
    for record in scene.records:
        record["source"] = str(rng.choice(["shop", "user"]))
        for annotation in record["annotations"]:
            annotation["scale"] = int(rng.integers(1, 4))
    return scene


@pytest.fixture(params=[DEEPFASHION2, FLD], ids=lambda schema: schema.name)
def scene(request, catalog) -> Scene:
    """A :func:`random_case` of each schema, registered."""
    scene = random_case(request.param)
    catalog(scene.records, scene.schema)
    return scene


@pytest.fixture
def stored(scene, tmp_path) -> Path:
    """Its predictions, in a file."""
    path = tmp_path / "predictions.npz"
    columns(scene)[1].save(path)
    return path
