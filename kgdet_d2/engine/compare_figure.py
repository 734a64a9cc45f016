"""The paper's Figure 5 of a comparison: box AP against landmark AP, a point a model."""

import argparse
import math
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from kgdet_d2.config import load_config
from kgdet_d2.utils.io import atomic_write

FORMATS = (".png", ".svg")
_AREA_OF_A_POINT = 4.0  # of the drawn disc, in square typographic points, for each informative point
_HAVE_POINTS = ("KGDet", "RepPoints")  # architectures


class Model(NamedTuple):
    """A model of the figure.

    Attributes:
        name: of its config.
        landmark_ap: mean over the seeds.
        box_ap: mean over the seeds.
        points: K', informative points of all columns.
    """

    name: str
    landmark_ap: float
    box_ap: float
    points: int


def figure_path(text: str) -> Path:
    """Return the path of a figure: an argparse type."""
    path = Path(text)
    if path.suffix not in FORMATS:
        raise argparse.ArgumentTypeError(f"expected a file that ends in {' or '.join(FORMATS)}, got {text}")
    return path


def write_figure(path: Path, rows: list[dict]) -> list[str]:
    """Write the figure of a comparison's rows, whole or not at all.

    Args:
        path: its ending is the format.
        rows: as in comparison.json.

    Returns:
        Lines that say the correlation, and which models are left out and why.

    Raises:
        ValueError: no model is left.
    """
    models, left_out = choose_models(rows)
    lines = [f"Not in the figure: {name}, which has no {what}." for name, what in left_out.items()]
    if not models:
        raise ValueError(f"{path}: expected a model with landmark AP and informative points, got {left_out}")
    with atomic_write(path) as file:
        draw(models).savefig(file, format=path.suffix[1:], dpi=150)
    return [f"Figure: {path}. {describe(models)}.", *lines]


def choose_models(rows: list[dict]) -> tuple[list[Model], dict[str, str]]:
    """Return the models that the figure shows, and what the others lack, by name."""
    models, left_out = [], {}
    for row in rows:
        name, scores = Path(row["config"]).stem, row["scores"]
        model = load_config(row["config"], row["runs"][0]["overrides"]).MODEL
        if scores["landmark AP"] is None:
            left_out[name] = "landmark AP"
        elif model.META_ARCHITECTURE not in _HAVE_POINTS:
            left_out[name] = "informative points"
        else:
            means = scores["landmark AP"]["mean"], scores["box AP"]["mean"]
            models.append(Model(name, *means, points=sum(model.KGDET.COLUMNS)))
    return models, left_out


def correlation(models: list[Model]) -> float:
    """Return Pearson's coefficient of landmark AP and box AP, -1..1.

    nan of fewer than three models, of which any two lie on a line, and where one of the scores is constant.
    """
    scores = np.array([(model.landmark_ap, model.box_ap) for model in models]).T
    if len(models) < 3 or (np.ptp(scores, axis=1) == 0).any():
        return math.nan
    return float(np.corrcoef(scores)[0, 1])


def describe(models: list[Model]) -> str:
    """Return the correlation in words."""
    value = correlation(models)
    told = "undefined" if math.isnan(value) else f"{value:.3f}"
    return f"Pearson correlation of box AP and landmark AP over {len(models)} models: {told}"


def draw(models: list[Model]) -> Figure:
    """Draw a disc for each model, its area in proportion to the informative points."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.add_subplot()
    landmark_ap, box_ap = ([getattr(model, name) for model in models] for name in ("landmark_ap", "box_ap"))
    areas = [_AREA_OF_A_POINT * model.points for model in models]
    axes.scatter(landmark_ap, box_ap, s=areas, alpha=0.5, edgecolors="black")
    # Names are written right and left in turns, for neighbours' would overlap on the same side.
    for side, model in zip(cycle((1, -1)), sorted(models, key=lambda model: model.landmark_ap), strict=False):
        axes.annotate(
            f"{model.name} ({model.points})",
            (model.landmark_ap, model.box_ap),
            xytext=(side * (math.sqrt(_AREA_OF_A_POINT * model.points / math.pi) + 3), 0),
            textcoords="offset points",
            horizontalalignment="left" if side > 0 else "right",
            verticalalignment="center",
            fontsize=8,
        )
    axes.margins(x=0.3, y=0.1)
    axes.grid(alpha=0.3)
    axes.set(xlabel="landmark AP", ylabel="box AP")
    axes.set_title(f"{describe(models)}\nin brackets and as areas: informative points", fontsize=10)
    return figure
