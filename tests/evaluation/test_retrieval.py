"""RetrievalEvaluator against plain loops, and its errors."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from kgdet_d2.evaluation.retrieval import RANKS, RetrievalEvaluator
from kgdet_d2.schema import DEEPFASHION2


@pytest.fixture
def register(monkeypatch):
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", dict(catalog.data))

    def register(records):
        DatasetCatalog.register("mine", lambda: records)
        MetadataCatalog.get("mine").set(keypoint_schema=DEEPFASHION2)
        return "mine"

    return register


def similarity(users, shops):
    return -torch.cdist(users, shops)


def record(image_id, source, pair_id, garments):
    """Garments are given as (box, style)."""
    annotations = [
        {
            "bbox": box,
            "bbox_mode": 0,
            "category_id": 8,
            "keypoints": [0.0] * 24,
            "iscrowd": 0,
            "style": style,
        }
        for box, style in garments
    ]
    photo = {"file_name": f"{image_id}.jpg", "width": 300, "height": 300, "image_id": image_id}
    return {**photo, "source": source, "pair_id": pair_id, "annotations": annotations}


def output(boxes, scores, embeddings, dimension=4):
    return Instances(
        (300, 300),
        pred_boxes=Boxes(torch.tensor(np.array(boxes), dtype=torch.float32).reshape(-1, 4)),
        scores=torch.tensor(scores, dtype=torch.float32),
        pred_embeddings=torch.tensor(np.array(embeddings), dtype=torch.float32).reshape(-1, dimension),
    )


def evaluate(name, records, outputs, **arguments):
    evaluator = RetrievalEvaluator(name, similarity=similarity, **{"distributed": False, **arguments})
    for photo, found in zip(records, outputs, strict=True):
        evaluator.process([photo], [{"instances": found}])
    return evaluator.evaluate()["retrieval"]


def random_scene(rng, photos=60):
    """Photos of few items, found more or less exactly, some not at all, with false detections between."""
    items = rng.normal(size=(8, 4, 4))  # embeddings by pair_id and style
    records, outputs = [], []
    for image_id in rng.permutation(1000)[:photos].tolist():
        garments, boxes, scores, embeddings = [], [], [], []
        pair_id, source = int(rng.integers(1, 8)), str(rng.choice(["user", "shop"]))
        for _ in range(rng.integers(4)):
            corner, style = rng.uniform(0, 150, 2), int(rng.integers(4))
            garments.append((np.r_[corner, corner + rng.uniform(30, 150, 2)].tolist(), style))
            for _ in range(rng.integers(3)):
                boxes.append(garments[-1][0] + rng.normal(0, rng.choice([2, 20]), 4))
                embeddings.append(items[pair_id, style] + rng.normal(0, 0.8, 4))
        for _ in range(rng.integers(3)):
            corner = rng.uniform(0, 250, 2)
            boxes.append(np.r_[corner, corner + rng.uniform(5, 50, 2)])
            embeddings.append(rng.normal(size=4))
        scores = rng.permutation(len(boxes)) / 10
        records.append(record(image_id, source, pair_id, garments))
        outputs.append(output(boxes, scores, embeddings))
    return records, outputs


def iou(a, b):
    sides = [max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1)]
    shared = sides[0] * sides[1]
    areas = [max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared) if shared > 0 else 0.0


def slow_accuracy(records, outputs):
    """The rules, garment by garment, with Python lists."""
    gallery, items_in_shops = [], set()  # (embedding, items that it shows)
    for photo, found in zip(records, outputs, strict=True):
        if photo["source"] != "shop":
            continue
        garments = photo["annotations"]
        items_in_shops |= {(photo["pair_id"], g["style"]) for g in garments if g["style"] > 0}
        for box, embedding in zip(found.pred_boxes.tensor.tolist(), found.pred_embeddings, strict=True):
            over = [g for g in garments if g["style"] > 0 and iou(box, g["bbox"]) >= 0.5]
            gallery.append((embedding, {(photo["pair_id"], g["style"]) for g in over}))
    queries, missed, hits = 0, 0, dict.fromkeys(RANKS, 0)
    for photo, found in zip(records, outputs, strict=True):
        if photo["source"] != "user":
            continue
        boxes, scores = found.pred_boxes.tensor.tolist(), found.scores.tolist()
        overlaps = [[iou(box, g["bbox"]) for g in photo["annotations"]] for box in boxes]
        for number, garment in enumerate(photo["annotations"]):
            item = (photo["pair_id"], garment["style"])
            if item not in items_in_shops:
                continue
            queries += 1
            own = [d for d, row in enumerate(overlaps) if max(row) > 0 and row.index(max(row)) == number]
            if not own:
                missed += 1
                continue
            query = found.pred_embeddings[max(own, key=lambda d: scores[d])]
            order = sorted(range(len(gallery)), key=lambda i: (query - gallery[i][0]).norm().item())
            for k in RANKS:
                hits[k] += any(item in gallery[i][1] for i in order[:k])
    return {f"top{k}": 100 * hits[k] / queries for k in RANKS} | {"missed": 100 * missed / queries}


@pytest.mark.parametrize("seed", range(6))
def test_accuracy_is_that_of_plain_loops(seed, register, monkeypatch):
    monkeypatch.setattr("kgdet_d2.evaluation.retrieval._QUERIES_PER_CHUNK", 3)
    records, outputs = random_scene(np.random.default_rng(seed))
    found, expected = evaluate(register(records), records, outputs), slow_accuracy(records, outputs)
    assert found == pytest.approx(expected)
    assert 0 < expected["top1"] < expected["top20"] < 100 and expected["missed"] > 0


A, B, FAR = [10, 10, 110, 110], [150, 150, 250, 250], [260, 10, 290, 40]


@pytest.fixture
def small():
    """A user's garment; a shop has it and, in another photo, another item."""
    return [
        record(1, "user", 7, [(A, 1), (B, 0)]),
        record(2, "shop", 7, [(A, 1)]),
        record(3, "shop", 8, [(B, 1)]),
    ]


SHOPS = [output([A], [0.9], [[0, 0, 0, 0]]), output([B], [0.9], [[5, 0, 0, 0]])]


@pytest.mark.parametrize(
    ("boxes", "scores", "embeddings", "top1"),
    [
        ([A], [0.5], [0], 100),
        ([A], [0.5], [4], 0),
        ([A, A], [0.5, 0.6], [0, 4], 0),
        ([A, A], [0.6, 0.5], [0, 4], 100),
        ([A, B], [0.5, 0.9], [0, 4], 100),
        ([A, FAR], [0.5, 0.9], [0, 4], 100),
        ([[100, 100, 200, 200]], [0.5], [0], 0),
    ],
    ids=["found", "mistaken", "worse first", "best scored", "another's", "nobody's", "belongs to the other"],
)
def test_which_detection_stands_for_a_query(small, register, boxes, scores, embeddings, top1):
    user = output(boxes, scores, [[x, 0, 0, 0] for x in embeddings])
    result = evaluate(register(small), small, [user, *SHOPS])
    assert result["top1"] == top1
    missed = boxes == [[100, 100, 200, 200]]
    assert result["top5"] == (0 if missed else 100) and result["missed"] == (100 if missed else 0)


def test_a_detection_of_nothing_is_wrong(register):
    records = [record(1, "user", 8, [(A, 1)]), record(2, "shop", 8, [(A, 1)]), record(3, "shop", 7, [(B, 1)])]
    zero = [[0, 0, 0, 0]]
    outputs = [output([A], [0.5], zero), output([FAR], [0.5], zero), output([B], [0.5], [[1, 0, 0, 0]])]
    assert evaluate(register(records), records, outputs)["top20"] == 0


@pytest.mark.parametrize("outputs", ["none at all", "user's alone", "shops' alone"])
def test_nothing_found(small, register, outputs):
    none = output([], [], [])
    user = none if outputs != "user's alone" else output([A], [0.5], [[0, 0, 0, 0]])
    shops = SHOPS if outputs == "shops' alone" else [none, none]
    result = evaluate(register(small), small, [user, *shops])
    assert [result[f"top{k}"] for k in RANKS] == [0] * len(RANKS)
    assert result["missed"] == (0 if outputs == "user's alone" else 100)


def test_photos_that_were_not_predicted_count_as_missed(small, register):
    result = evaluate(register(small), small[:0], [])
    assert result["top20"] == 0 and result["missed"] == 100


def test_what_processes_saw_is_joined(small, register, monkeypatch):
    name = register(small)
    user = output([A], [0.5], [[0, 0, 0, 0]])
    first, second = (RetrievalEvaluator(name, similarity=similarity) for _ in range(2))
    first.process(small[:2], [{"instances": user}, {"instances": SHOPS[0]}])
    second.process(small[2:], [{"instances": SHOPS[1]}])
    other = (second._queries, second._gallery)
    monkeypatch.setattr(comm, "gather", lambda own, dst: [own, other])
    assert first.evaluate()["retrieval"] == evaluate(name, small, [user, *SHOPS])
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert second.evaluate() == {}


def test_unknown_photos_and_datasets_without_queries_are_refused(small, register):
    name = register(small)
    with pytest.raises(ValueError, match="image 99: no such image_id"):
        evaluate(name, [small[0] | {"image_id": 99}], [output([A], [0.5], [[0, 0, 0, 0]])])
    for records, message in (
        (small[:1], "no user's garment is in a shop's photo"),
        ([{k: v for k, v in r.items() if k != "pair_id"} for r in small], "retrieval needs .*pair_id"),
    ):
        DatasetCatalog.remove(name)
        register(records)
        with pytest.raises(ValueError, match=f"dataset 'mine': {message}"):
            RetrievalEvaluator(name, similarity=similarity)


@pytest.mark.parametrize("crowd", ["user", "shop"])
def test_a_crowd_is_neither_looked_for_nor_found(register, crowd):
    """Of two items with a photo each by a user and by a shop, one is a crowd in one of these."""
    records = [
        record(number, source, 7, [([10, 10, 100, 100], 1), ([150, 150, 250, 250], 2)])
        for number, source in enumerate(("user", "shop"))
    ]
    found = output([a["bbox"] for a in records[0]["annotations"]], [1.0, 0.9], np.eye(2, 4))
    assert evaluate(register(records), records, [found, found])["top1"] == 100
    for photo in records:
        photo["annotations"][1]["iscrowd"] = int(photo["source"] == crowd)
    evaluator = RetrievalEvaluator("mine", similarity=similarity, distributed=False)
    assert evaluator.is_query.tolist() == [True, False, False, False]
    scores = evaluate("mine", records, [found, found])
    assert scores == {**dict.fromkeys([f"top{k}" for k in RANKS], 100), "missed": 0}
