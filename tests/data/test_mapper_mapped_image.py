"""Mapped images on their way to another process."""

import copy
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from torch import multiprocessing

from kgdet_d2.data.mapper import MappedImage


def make_photo(garments, size=(40, 30)):
    generator = torch.Generator().manual_seed(garments)
    instances = Instances(
        size,
        gt_boxes=Boxes(torch.rand(garments, 4, generator=generator)),
        gt_classes=torch.arange(garments),
        gt_keypoints=Keypoints(torch.rand(garments, 294, 3, generator=generator)),
        gt_masks=BitMasks(torch.rand(garments, *size, generator=generator) > 0.5),
    )
    image = torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator)
    return MappedImage(file_name="a.jpg", image=image, instances=instances, weight=torch.tensor(0.5))


def tensors(photo):
    values = {"image": photo["image"], "weight": photo["weight"], **photo["instances"].get_fields()}
    return {name: getattr(value, "tensor", value) for name, value in values.items()}


def put(queue, photos, done):
    queue.put(photos)
    done.wait()


@pytest.mark.parametrize("photos", [[make_photo(2)], [make_photo(0), make_photo(3, size=(700, 600))]])
def test_another_process_gets_the_same(photos):
    context = multiprocessing.get_context("fork")
    queue, done = context.Queue(), context.Event()
    process = context.Process(target=put, args=(queue, photos, done))
    process.start()
    arrived = queue.get(timeout=60)
    done.set()
    process.join()
    for ours, theirs in zip(arrived, photos, strict=True):
        assert ours.keys() == theirs.keys() and ours["file_name"] == "a.jpg"
        assert ours["instances"].image_size == theirs["instances"].image_size
        for name, expected in tensors(theirs).items():
            found = tensors(ours)[name]
            assert found.dtype == expected.dtype and torch.equal(found, expected)
            found.zero_()  # it can be written to


def test_only_large_tensors_are_in_shared_memory():
    photo = make_photo(3, size=(300, 400))
    ForkingPickler.dumps(photo)
    shared = {name for name, value in tensors(photo).items() if value.is_shared()}
    assert shared == {"image", "gt_masks"}


def test_it_is_a_dict_otherwise():
    photo = make_photo(1)
    again = pickle.loads(pickle.dumps(photo))
    assert type(again) is MappedImage and torch.equal(again["image"], photo["image"])
    assert copy.copy(photo)["image"] is photo["image"]
