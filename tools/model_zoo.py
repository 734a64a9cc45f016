#!/usr/bin/env python
"""Write docs/MODEL_ZOO.md from the results that are kept in docs/results.

    python tools/model_zoo.py

A file there is a comparison.json of tools/compare.py. The paper's numbers are in this file.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

from tabulate import tabulate

from kgdet_d2.engine.compare import conditions, score, table
from kgdet_d2.engine.compare_runs import SCORES
from kgdet_d2.utils.command import exit_status
from kgdet_d2.utils.environment import ROOT
from kgdet_d2.utils.io import atomic_write

RESULTS, PAGE = ROOT / "docs/results", ROOT / "docs/MODEL_ZOO.md"
NOT_RUN = "not run"


class PaperTable(NamedTuple):
    """A table of the paper.

    Attributes:
        scores: names from :data:`kgdet_d2.engine.compare_runs.SCORES`.
        rows: a config, and the paper's score of each name.
    """

    title: str
    dataset: str
    scores: tuple[str, ...]
    rows: dict[str, tuple[float, ...]]


BOX = ("box AP", "AP50", "AP75")
PAPER = (
    PaperTable(
        "DeepFashion2, validation: the paper's Table 1",
        "deepfashion2_val",
        BOX,
        {
            "configs/match_rcnn_R50.yaml": (63.8, 78.9, 74.5),
            "configs/retinanet_R50.yaml": (63.2, 79.0, 73.6),
            "configs/fcos_R50.yaml": (64.1, 80.2, 74.7),
            "configs/reppoints_R50.yaml": (63.3, 79.7, 74.0),
            "configs/reppoints_kp_R50.yaml": (64.0, 80.1, 74.9),
            "configs/kgdet_R50.yaml": (67.9, 80.9, 75.0),
            "configs/match_rcnn_R101.yaml": (),
            "configs/retinanet_R101.yaml": (65.7, 81.1, 75.3),
            "configs/fcos_R101.yaml": (65.9, 81.7, 75.7),
            "configs/reppoints_R101.yaml": (65.4, 80.8, 75.2),
            "configs/reppoints_kp_R101.yaml": (66.0, 81.3, 75.5),
            "configs/kgdet_R101.yaml": (68.4, 82.3, 76.7),
        },
    ),
    PaperTable(
        "DeepFashion2, validation: the two modules, Table 2",
        "deepfashion2_val",
        (*BOX, "landmark AP"),
        {
            "configs/ablations/table2_encoding.yaml": (65.8, 77.9, 72.1, 31.7),
            "configs/ablations/table2_selection.yaml": (64.1, 75.3, 70.5, 29.5),
        },
    ),
    PaperTable(
        "DeepFashion2, validation: points, stages, levels, mirrors, Table 4",
        "deepfashion2_val",
        ("box AP", "landmark AP"),
        {
            "configs/ablations/table4_0.yaml": (63.9, 30.2),
            "configs/ablations/table4_1.yaml": (64.5, 30.8),
            "configs/ablations/table4_2.yaml": (65.2, 31.6),
            "configs/ablations/table4_3.yaml": (66.3, 32.7),
            "configs/ablations/table4_4.yaml": (67.9, 33.8),
            "configs/ablations/table4_5.yaml": (68.4, 35.9),
            "configs/ablations/table4_6.yaml": (68.3, 35.6),
            "configs/ablations/table4_7.yaml": (69.1, 36.8),
        },
    ),
    PaperTable(
        "FLD: Table 3",
        "fld_test",
        BOX,
        {
            "configs/fld/retinanet_R50.yaml": (69.3, 90.4, 77.8),
            "configs/fld/fcos_R50.yaml": (68.7, 89.9, 78.0),
            "configs/fld/reppoints_R50.yaml": (69.1, 91.3, 78.2),
            "configs/fld/kgdet_R50.yaml": (70.8, 90.2, 79.0),
            "configs/fld/reppoints_kp_R50.yaml": (),
            "configs/fld/match_rcnn_R50.yaml": (),
        },
    ),
)
INTRODUCTION = f"""# Model zoo

*Written by `tools/model_zoo.py` from `docs/results/`.*

"paper" is what the KGDet paper reports, measured by its authors with their code; its Match R-CNN is of
DeepFashion2's own repository. "here" was measured with the code in this repository. Where it says
"{NOT_RUN}", nobody has trained that config on that data set yet, and what it would reach is not known. Scores
are means over seeds with their sample standard deviation."""
SAMPLE = """The synthetic sample is drawings, the models are small, the trainings short: the table says how
the systems compare under these conditions, and nothing about photos. Multiply-adds are at the timed photos'
size; an R-CNN's are the most that its config allows, with all its boxes."""

NOTES = {  # on single results
    "sample_from_random_weights": [
        """`kgdet_plus_tiny_scratch.yaml` was trained and timed on another day and machine than the others:
scores and costs compare, milliseconds and seconds an iteration do not. Without GIoU and quality scores it has
box AP 35.3, AP50 52.0 and landmark AP 16.5, without the landmarks' own score 36.1, 52.2 and 17.4, a seed
each."""
    ],
    "sample_from_ImageNet_weights": [
        """Two runs at a time, a thread each. All systems have the learning rate that suited KGDet plus better
than half and twice as much, and FCOS better than half, in a run each. `kgdet_plus_tiny.yaml` was trained
again when the loss of refined boxes was kept from the landmarks, beside other work: its seconds an iteration
do not compare; they were 0.48 before, when it had box AP 57.3 and landmark AP 36.9. RepPoints and
RepPoints-Kp were trained another day, one seed each."""
    ],
    "sample_after_2000_iterations": [
        """As from ImageNet weights below, but for 2,000 iterations, three seeds of KGDet plus and one of each
other, beside other work: seconds an iteration do not compare. KGDet plus without the landmarks' own score has
box AP 80.9, AP50 93.7 and landmark AP 61.2, one seed."""
    ],
    "each_key_from_ImageNet_weights": [
        """One seed each; three seeds of all keys together have 63.3 ± 0.7 box AP and 43.6 ± 0.5 landmark AP.
Runs were on two machines and had other work beside them: seconds an iteration and milliseconds do not
compare. Refiner, verification, refined boxes and normalised stages carry the model. GIoU, quality scores,
the landmarks' own score and shared kinds bring nothing that one seed shows: without GIoU and quality scores
three seeds have 64.0 ± 0.3 box AP (AP50 79.3 ± 0.8) and 44.2 ± 0.9 landmark AP. These two stay in the configs
for what they bring from random weights, see there; shared kinds save parameters; and the landmarks' own score
ranks them better in one and the same model: where they are ranked by their detection's score, landmark AP is
41.8 in place of 43.1 (one seed), from random weights 17.4, 17.7 and 17.1 in place of 18.7, 19.1 and 18.3."""
    ],
    "tables_2_and_4_in_small": [
        """The paper's Tables 2 and 4 with small networks (`configs/sample/ablations`), from ImageNet weights
as below, 1,000 iterations, one seed each, beside other work: seconds an iteration do not compare. Rows 5 and
7 of Table 4 are missing: a deeper backbone is none on MobileNetV2, and P3 with mirror images took too long
here.""",
        """Of the paper's order there is: encoding before selection; more informative points before fewer
(rows 0, 1, 2, 3), three columns above all; mirror images before none (6 before 4), most of all for landmarks.
There is not: a third stage before two (4 before 3: 49.4 against 51.9). Box AP and landmark AP go together, as
in the paper's Figure 5:""",
        "![Box AP against landmark AP, a disc for each model](figure5_sample.png)",
    ],
}

PLAN = """What goes beyond the paper ([DESIGN.md](DESIGN.md#beyond-the-paper)) is a plan and **not run**.
Costs are those of `kgdet analyze` for one image of 1280 x 800 (lite0: 820 x 512), schedules those of the
configs: 12 epochs of 191,961 images in batches of 8, and of 16 at twice the learning rate.

{table}

With GPUs and DeepFashion2 at hand, in this order:

1. `configs/kgdet_R50.yaml` as it is: does the published system reach the paper's 67.9 and 33.8 here?
2. `configs/beyond/kgdet_plus_R50.yaml` and `configs/kgdet_R50.yaml` at a quarter of the schedule
   (`SOLVER.MAX_ITER 71985`, for the latter `SOLVER.STEPS "(47990, 65966)"`), one seed each: is the difference
   on drawings one on photos, too?
3. Each key left out at that schedule, the largest losses on drawings first; and what no trial on drawings can
   decide for large photos: `MODEL.FPN.FINE_LEVEL p2`, `MODEL.FPN.OUT_FEATURES "['p4']"`.
4. The whole schedule of what is left, then ResNet-101 and ConvNeXt-T, then flip fusion at inference.
5. `configs/beyond/kgdet_plus_lite0.yaml`, which needs the least."""
PLANNED = {  # parameters in millions, multiply-adds in 10^9, iterations on 4 and on 8 GPUs
    "configs/beyond/kgdet_plus_R50.yaml": (52.86, 114.36, 287_940, 143_970),
    "configs/beyond/kgdet_plus_R101.yaml": (71.85, 190.12, 287_940, 143_970),
    "configs/beyond/kgdet_plus_convnext_tiny.yaml": (56.7, 120.96, 287_940, 143_970),
    "configs/beyond/kgdet_plus_lite0.yaml": (5.41, 4.76, 287_940, 143_970),
}


def page(comparisons: dict[str, list[dict]]) -> str:
    """Return the whole page.

    Args:
        comparisons: the rows of each file in ``docs/results``, by its name.
    """
    all_rows = [row for rows in comparisons.values() for row in rows]
    paper_datasets = {paper.dataset for paper in PAPER}
    parts = [INTRODUCTION]
    for paper in PAPER:
        parts += [f"## {paper.title}", beside_the_paper(paper, all_rows)]
    parts += ["## Beyond the paper", PLAN.format(table=planned())]
    for name, rows in comparisons.items():
        if others := [row for row in rows if row["runs"][0]["dataset"] not in paper_datasets]:
            title = f"{name[:1].upper()}{name[1:]}".replace("_", " ")
            parts += [f"## {title}: {others[0]['runs'][0]['dataset']}", SAMPLE, *NOTES.get(name, [])]
            parts += [table(others), "\n".join(f"- {line}" for line in conditions(others))]
            parts.append(differences(others))
    return "\n\n".join(parts) + "\n"


def beside_the_paper(paper: PaperTable, rows: list[dict]) -> str:
    """Return a table of the paper's scores and ours of each config."""
    ours = {row["config"]: row for row in rows if row["runs"][0]["dataset"] == paper.dataset}
    cells = []
    for config, scores in paper.rows.items():
        theirs = [f"{value:.1f}" for value in scores] or ["-"] * len(paper.scores)
        row = ours.get(config)
        measured = [score(row["scores"][name]) for name in SCORES] if row else [NOT_RUN]
        cells.append([f"`{config}`", *theirs, *measured])
    headers = ["config", *(f"paper: {name}" for name in paper.scores), *(f"here: {name}" for name in SCORES)]
    return tabulate(cells, headers, tablefmt="pipe", disable_numparse=True)


def planned() -> str:
    """Return the table of configs that nobody has run."""
    cells = []
    for config, (parameters, multiply_adds, four, eight) in PLANNED.items():
        costs = [f"{parameters:.2f}", f"{multiply_adds:.2f}"]
        cells.append([f"`{config}`", *costs, f"{four:,}", f"{eight:,}", NOT_RUN])
    headers = ["config", "parameters M", "multiply-adds G", "iterations on 4 GPUs x 2", "on 8 GPUs x 2", "AP"]
    return tabulate(cells, headers, tablefmt="pipe", disable_numparse=True)


def differences(rows: list[dict]) -> str:
    """Return a table of box AP of the first system less the others', with the error of that difference."""
    first, *others = rows
    cells = []
    for other in others:
        (mean, error), (other_mean, other_error) = _mean_and_error(first), _mean_and_error(other)
        error = math.hypot(error, other_error)
        cells.append([f"`{other['config']}`", f"{mean - other_mean:+.2f}", f"{error:.2f}"])
    headers = [f"box AP of `{first['config']}` less that of", "difference", "standard error"]
    return tabulate(cells, headers, tablefmt="pipe", disable_numparse=True)


def _mean_and_error(row: dict) -> tuple[float, float]:
    """Return the mean over the seeds and its standard error, nan where there is one seed alone."""
    box = row["scores"]["box AP"]
    spread = math.nan if box["std"] is None else box["std"]
    return box["mean"], spread / math.sqrt(len(row["runs"]))


def read_results() -> dict[str, list[dict]]:
    """Return the rows of each stored comparison by file name, in order of the names.

    Raises:
        ValueError: naming the file that is no JSON.
    """
    comparisons = {}
    for path in sorted(RESULTS.glob("*.json")):
        try:
            comparisons[path.stem] = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}: expected a comparison.json of tools/compare.py, got {error}"
            ) from error
    return comparisons


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    return exit_status(write_page)


def write_page() -> None:
    """Write the page from all stored results."""
    text = page(read_results())
    with atomic_write(PAGE) as file:
        file.write(text.encode())


if __name__ == "__main__":
    sys.exit(main())
