"""Small photos and annotations for the tests of kgdet_d2.data."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.structures.annotations import AnnotationTable, Garment, Photo

WIDTH, HEIGHT = 64, 48


@pytest.fixture(autouse=True)
def catalogs(monkeypatch):
    """Catalogues of this test's own."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", dict(catalog.data))


@pytest.fixture
def make_garment() -> Callable[..., Garment]:
    """A garment of a class with random landmarks inside the frame; keywords replace what is random."""
    rng = np.random.default_rng(0)

    def make(category_id: int, **replaced) -> Garment:
        count = DEEPFASHION2.num_class_keypoints(category_id)
        points = rng.integers(1, (WIDTH, HEIGHT), (count, 2))
        names = ("item", "style", "scale", "occlusion", "zoom_in", "viewpoint")
        values = {
            "category_id": category_id,
            "box": np.array([3, 5, 60, 40], dtype=np.float32),
            "keypoints": np.c_[points, rng.integers(1, 3, count)].astype(np.float32),
            "polygons": [rng.uniform(0, 40, (n, 2)).astype(np.float32) for n in rng.integers(3, 9, 2)],
            "attributes": {name: int(rng.integers(1, 4)) for name in names},
        }
        return Garment(**{**values, **replaced})

    return make


@pytest.fixture
def photos(make_garment) -> list[Photo]:
    """Four photos: a garment of every class; none; one without any landmark; one without a polygon."""
    absent = np.zeros((DEEPFASHION2.num_class_keypoints(4), 3), dtype=np.float32)
    garments = [
        [make_garment(index) for index in range(DEEPFASHION2.num_classes)],
        [],
        [make_garment(4, keypoints=absent)],
        [make_garment(8, polygons=[])],
    ]
    attributes = [{"source": source, "pair_id": 7} for source in ("user", "shop", "user", "")]
    return [
        Photo(f"{number:06d}.png", number, WIDTH, HEIGHT, *contents)
        for number, contents in enumerate(zip(garments, attributes, strict=True), 1)
    ]


@pytest.fixture
def annotations(photos) -> AnnotationTable:
    return AnnotationTable.from_photos(photos, DEEPFASHION2)


@pytest.fixture
def image_root(photos, tmp_path) -> Path:
    """A folder with a random picture for each of ``photos``."""
    folder = tmp_path / "image"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for photo in photos:
        pixels = rng.integers(0, 256, (photo.height, photo.width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / photo.file_name)
    return folder


@pytest.fixture
def native_item() -> dict:
    """A skirt in DeepFashion2's native form."""
    return {
        "category_id": 9,
        "category_name": "skirt",
        "style": 1,
        "scale": 2,
        "occlusion": 3,
        "zoom_in": 1,
        "viewpoint": 2,
        "bounding_box": [10, 8, 50, 40],
        "landmarks": [x for i in range(8) for x in (10.0 + i, 8.0 + 2 * i, float(i % 3))],
        "segmentation": [[10, 8, 50.25, 8, 50, 40], [10, 8, 20, 8, 20, 12, 10, 12.5]],
    }


@pytest.fixture
def native_tree(tmp_path, native_item) -> Path:
    """A root with three photos of two skirts each in its split ``validation``."""
    root = tmp_path / "deepfashion2"
    for part in ("image", "annos"):
        (root / "validation" / part).mkdir(parents=True)
    for number in (1, 2, 10):
        content = {"source": "shop", "pair_id": 5, "item1": native_item, "item2": {**native_item, "style": 0}}
        (root / f"validation/annos/{number:06d}.json").write_text(json.dumps(content))
        Image.new("RGB", (WIDTH, HEIGHT), (90, number, 30)).save(root / f"validation/image/{number:06d}.jpg")
    return root


@pytest.fixture
def edit(native_tree) -> Callable[..., None]:
    """Edit the annotation of photo 2: set fields of it or, by ``item``, of an item; ``...`` removes."""
    path = native_tree / "validation" / "annos" / "000002.json"

    def edit(item=None, **fields):
        content = json.loads(path.read_text())
        target = content if item is None else content[item]
        target.update(fields)
        for name in [name for name, value in fields.items() if value is ...]:
            del target[name]
        path.write_text(json.dumps(content))

    return edit
