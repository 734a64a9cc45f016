"""Damaged predictions: refused by one line that names the file, or scored with finite numbers."""

import io
import json
import math
import os

import numpy as np
import pytest

from kgdet_d2.schema import DEEPFASHION2
from tests.helpers.columns import columns
from tests.helpers.commands import assert_refused, run
from tests.helpers.mutations import mutate_bytes, mutate_json
from tests.helpers.registered import NAME, random_case

EACH = 100
TYPES = ("float64", "float16", "int64", "int8", "complex64", "U3", "bool", "object")


def mutate_npz(content, rng):
    """Change an array of the file, or its bytes."""
    if rng.random() < 0.4:
        return mutate_bytes(content, rng)
    with np.load(io.BytesIO(content)) as archive:
        arrays = dict(archive)
    name = str(rng.choice(list(arrays)))
    array, place = arrays[name], int(rng.integers(max(arrays[name].size, 1)))
    kind = rng.choice(["drop", "rename", "type", "cut", "shape", "number", "number", "number", "reverse"])
    if kind == "drop":
        del arrays[name]
    elif kind == "rename":
        arrays[f"{name}_"] = arrays.pop(name)
    elif kind == "type":
        with np.errstate(invalid="ignore"):
            arrays[name] = array.astype(str(rng.choice([TYPES[0], TYPES[1], TYPES[5], TYPES[7]])))
    elif kind == "cut":
        arrays[name] = array.reshape(-1)[:place]
    elif kind == "shape":
        arrays[name] = array[None] if rng.random() < 0.5 else array.reshape(-1)
    elif kind == "reverse":
        arrays[name] = array.reshape(-1)[::-1].reshape(array.shape)
    elif array.dtype.kind in "iuf" and array.size:
        flat = array.reshape(-1).copy()
        with np.errstate(over="ignore"):
            big = (np.nan, np.inf, -1e38, 1e30) if array.dtype.kind == "f" else (-1, 2**14, -(2**15), 99)
            flat[place] = big[int(rng.integers(4))]
        arrays[name] = flat.reshape(array.shape)
    mutated = io.BytesIO()
    np.savez(mutated, **arrays)
    return mutated.getvalue()


def mutate_lines(content, rng):
    lines = content.splitlines()
    place = int(rng.integers(len(lines)))
    lines[place] = mutate_json(lines[place], rng)
    return b"\n".join(lines)


def evaluate(path):
    """Refused, or the average precisions that are printed."""
    ended = run("evaluate", "--dataset", NAME, "--predictions", path)
    if ended.status:
        assert_refused(ended, str(path))
        return "refused"
    table = ended.printed.split("## ")[1].strip().splitlines()  # of average precision
    scores = [line.split("|")[2:5] for line in table if line.startswith("|")][2:]
    assert len(scores) in (1, 3), "expected a row of scores for each task"
    numbers = [float(cell) for row in scores for cell in row]
    assert all(math.isfinite(number) and 0 <= number <= 100 for number in numbers), f"scores: {numbers}"
    return "scored"


@pytest.mark.reliability
@pytest.mark.parametrize("form", ["npz", "json", "jsonl"])
def test_predictions(form, catalog, tmp_path, campaign):
    scene = random_case(DEEPFASHION2, most_false=3)
    catalog(scene.records, scene.schema)
    predictions = columns(scene)[1]
    path = tmp_path / f"predictions.{form}"
    predictions.save(tmp_path / "stored.npz")
    rows = [predictions.coco_result(row, all_slots=False) for row in range(predictions.num_detections)]
    original, mutate = {
        "npz": ((tmp_path / "stored.npz").read_bytes(), mutate_npz),
        "json": (json.dumps(rows).encode(), mutate_json),
        "jsonl": ("\n".join(map(json.dumps, rows)).encode(), mutate_lines),
    }[form]

    def attempt(rng):
        path.write_bytes(mutate(original, rng))
        outcome = evaluate(path)
        assert sorted(os.listdir(tmp_path)) == sorted(["stored.npz", path.name])
        return outcome

    path.write_bytes(original)
    assert form == "jsonl" or evaluate(path) == "scored"
    campaign.run(f"damaged predictions, .{form}", EACH, 70 + len(form), attempt)
