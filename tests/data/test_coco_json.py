"""The COCO files that are made for Detectron2's COCOEvaluator."""

import json
from dataclasses import replace

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager
from pycocotools.coco import COCO

from kgdet_d2.data.coco_json import offer_coco_json
from kgdet_d2.data.register import register_fashion
from kgdet_d2.schema import DEEPFASHION2, FLD
from kgdet_d2.structures.annotations import AnnotationTable
from tests.helpers.registered import NAME


@pytest.fixture(params=[DEEPFASHION2, FLD], ids=lambda schema: schema.name)
def table(request, make_scene):
    scene = make_scene(np.random.default_rng(0), request.param, images=8, crowds=0.2)
    return AnnotationTable.from_dataset_dicts(scene.records, request.param)


def written(table, folder):
    """What COCOEvaluator reads of a table that is registered."""
    table.save(folder / "table.npz")
    register_fashion(NAME, table.schema, folder, folder / "table.npz")
    return PathManager.get_local_path(MetadataCatalog.get(NAME).json_file)


@pytest.mark.usefixtures("catalog")
def test_every_garment_has_the_landmarks_of_all_classes(table, tmp_path):
    content = json.loads(open(written(table, tmp_path)).read())
    assert [image["id"] for image in content["images"]] == table.image_id.tolist()
    assert [category["name"] for category in content["categories"]] == list(table.schema.class_names)
    annotations = content["annotations"]
    assert len(annotations) == table.num_garments > 10
    for row, annotation in enumerate(annotations):
        x1, y1, x2, y2 = table.box_float64[row]
        assert annotation["id"] == row + 1
        assert annotation["image_id"] == table.image_id[table.garment_image[row]]
        assert annotation["category_id"] == table.category_id[row] + 1
        assert annotation["bbox"] == [x1, y1, x2 - x1, y2 - y1] and annotation["area"] == table.area[row]
        assert annotation["iscrowd"] == table.iscrowd[row]
        found = np.reshape(annotation["keypoints"], (-1, 3))
        assert len(found) == table.schema.num_keypoints
        own = table.keypoints[slice(*table.keypoint_offsets[row : row + 2])]
        for slot, (x, y, v) in zip(table.schema.slots[table.category_id[row]], own.tolist(), strict=True):
            assert found[slot].tolist() == ([x - 0.5, y - 0.5, v] if v else [0, 0, 0])
            found[slot] = 0
        assert not found.any()


@pytest.mark.usefixtures("catalog")
def test_categories_are_the_models_classes(table, tmp_path):
    written(table, tmp_path)
    ids = MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id
    assert ids == {index + 1: index for index in range(table.schema.num_classes)}


@pytest.mark.usefixtures("catalog")
def test_garments_without_area_are_left_out(table, tmp_path):
    box = table.box.copy()
    box[0, 2] = box[0, 0]
    coco = COCO(written(replace(table, box=box), tmp_path))
    assert len(coco.anns) == table.num_garments - 1


@pytest.mark.usefixtures("catalog")
def test_photos_without_garments_have_no_annotations(table, tmp_path):
    nothing = table.select_garments(np.zeros(table.num_garments, bool))
    content = json.loads(open(written(nothing, tmp_path)).read())
    assert "annotations" not in content and len(content["images"]) == len(table)


@pytest.mark.usefixtures("catalog")
def test_masks_of_garments_without_polygons_have_no_pixel(table, tmp_path):
    coco = COCO(written(table, tmp_path))
    assert not any(coco.annToMask(annotation).any() for annotation in coco.anns.values())


def test_a_file_of_the_datasets_own_stays(catalog):
    catalog([], DEEPFASHION2)
    MetadataCatalog.get(NAME).set(json_file="own.json")
    offer_coco_json(NAME)
    assert MetadataCatalog.get(NAME).json_file == "own.json"
    assert MetadataCatalog.get(NAME).get("thing_dataset_id_to_contiguous_id") is None
