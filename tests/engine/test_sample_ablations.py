"""The small versions of the rows of the paper's Tables 2 and 4, and the rows of what goes beyond it."""

from pathlib import Path

import pytest
import torch

from kgdet_d2.config import load_config
from kgdet_d2.engine.optimizer import build_optimizer
from tests.helpers.images import image_input
from tests.helpers.systems import make_model

FOLDER = Path("configs/sample/ablations")
NAMES = sorted(path.stem for path in FOLDER.iterdir())
# A row, and the one that it differs from by what the paper's table is about.
NEIGHBOURS = [
    (f"table4_{row}", f"table4_{other}") for row, other in ("10", "20", "30", "43", "54", "64", "76")
]
PLUS, BEYOND = Path("configs/sample/kgdet_plus_tiny.yaml"), Path("configs/sample/beyond")
NEIGHBOURS += [("table2_selection", "table2_encoding"), ("table4_4", "table2_encoding")]


def settings(node, prefix=""):
    """Return the config as {dotted key: value}, without the names of files."""
    found = {}
    for key, value in node.items():
        if hasattr(value, "items"):
            found |= settings(value, f"{prefix}{key}.")
        elif key not in ("OUTPUT_DIR", "WEIGHTS"):
            found[prefix + key] = value
    return found


def changed(first, second):
    """Return {key: values in both} where two config files differ."""
    one, other = (settings(load_config(str(file), [])) for file in (first, second))
    return {key: (one[key], other[key]) for key in one if one[key] != other[key]}


def test_every_row_of_tables_2_and_4_has_a_small_version():
    rows = {path.stem for path in Path("configs/ablations").iterdir()} - {"table4_4_unsupervised"}
    assert {f"{row}_tiny" for row in rows} == set(NAMES)


@pytest.mark.parametrize(("row", "other"), NEIGHBOURS)
def test_rows_differ_as_the_paper_s_do(row, other):
    """In the same settings; and columns, stages, aggregation and mirrors have the same values, too."""
    paper = changed(*(f"configs/ablations/{name}.yaml" for name in (row, other)))
    small = changed(*(FOLDER / f"{name}_tiny.yaml" for name in (row, other)))
    assert small.keys() == paper.keys() != set()
    for key in small:
        own = key in ("MODEL.RESNETS.DEPTH", "MODEL.FPN.OUT_FEATURES", "MODEL.KGDET.LOSS.STAGE_WEIGHTS")
        assert own or small[key] == paper[key]


def test_sizes_that_the_small_model_has_of_its_own():
    """A deeper network, and one finer level, as in the paper's #5 and #7."""
    depth = changed(FOLDER / "table4_5_tiny.yaml", FOLDER / "table4_4_tiny.yaml")["MODEL.RESNETS.DEPTH"]
    finer, levels = changed(FOLDER / "table4_7_tiny.yaml", FOLDER / "table4_6_tiny.yaml")[
        "MODEL.FPN.OUT_FEATURES"
    ]
    assert depth[0] > depth[1]
    assert finer[1:] == levels and int(finer[0][1:]) == int(levels[0][1:]) - 1


@pytest.mark.parametrize("name", NAMES)
def test_it_is_trained_and_predicts(name):
    model = make_model(f"ablations/{name}", "MODEL.KGDET.SCORE_THRESH_TEST", 0.0)
    optimizer = build_optimizer(load_config(str(FOLDER / f"{name}.yaml"), []), model)
    inputs = [image_input(96, 64, [[5, 5, 60, 90]]), image_input(64, 96, [[0, 0, 90, 60], [20, 10, 60, 40]])]
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    sum(model(inputs).values()).backward()
    optimizer.step()
    unchanged = [key for key, parameter in model.named_parameters() if parameter.equal(before[key])]
    assert not unchanged and all(parameter.isfinite().all() for parameter in model.parameters())
    with torch.no_grad():
        results = model.eval()(inputs)
    for result in results:
        instances = result["instances"]
        assert len(instances) > 0 and instances.pred_keypoints.isfinite().all()


@pytest.mark.parametrize("part", ["norm", "quality", "giou", "refiner", "ema"])
def test_what_is_alone_in_one_row_lacks_in_another(part):
    """In the same keys, with their values the other way round."""
    alone = changed(BEYOND / f"plus_{part}_alone.yaml", BEYOND / "plus_nothing.yaml")
    without = changed(PLUS, BEYOND / f"plus_without_{part}.yaml")
    assert alone == without != {}


def test_rows_without_a_part_lack_nothing_else():
    rows = sorted(BEYOND.glob("plus_without_*.yaml"))
    several = {"norm", "quality", "giou", "refiner"}  # what belongs together, such as a loss and its weight
    keys = [set(changed(PLUS, row)) for row in rows]
    single = [
        row
        for row, changes in zip(rows, keys, strict=True)
        if row.stem.removeprefix("plus_without_") not in several and len(changes) != 1
    ]
    assert not single and len(set(map(frozenset, keys))) == len(rows) == 9


def test_the_row_of_nothing_has_none_of_them():
    """But for the landmarks' score and heat maps, which are the refiner's alone."""
    changes = set(changed(PLUS, BEYOND / "plus_nothing.yaml"))
    each = {key for row in BEYOND.glob("plus_without_*.yaml") for key in changed(PLUS, row)}
    assert each - changes == {"MODEL.KGDET.REFINER.QUALITY_WEIGHT", "MODEL.KGDET.REFINER.SHARED"}
    assert changes <= each
