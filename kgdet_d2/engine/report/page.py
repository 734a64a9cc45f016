"""The page of ``kgdet report``: one HTML file from the template ``page.html``, with all pictures in it."""

import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import NamedTuple

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.colors import to_hex

from kgdet_d2 import __version__
from kgdet_d2.engine.report.drawn_garments import DrawnGarment
from kgdet_d2.engine.report.worst_photos import FAR, WorstPhoto
from kgdet_d2.evaluation import plots
from kgdet_d2.evaluation.average_precision import AveragePrecision
from kgdet_d2.evaluation.report import (
    Table,
    error_tables,
    landmark_tables,
    matched_table,
    oracle_table,
    score_tables,
    subset_table,
)
from kgdet_d2.figure_page import encode_jpeg
from kgdet_d2.utils.environment import commit, versions

PANELS = {"bbox": "Boxes", "keypoints": "Landmarks", "keypoints_visible": "Visible landmarks"}
_JPEG_QUALITY = 82


class Configuration(NamedTuple):
    """The config that a model predicted with.

    Attributes:
        source: the file; "" where it is not known.
        text: YAML.
    """

    source: str = ""
    text: str = ""


def render(
    report: Mapping,
    *,
    sizes: Table,
    curves: Mapping[str, AveragePrecision],
    garments: Sequence[DrawnGarment],
    photos: Iterable[WorstPhoto],
    configuration: Configuration,
) -> str:
    """Return the page.

    Args:
        report: see :mod:`kgdet_d2.evaluation.report`; with scores and errors, the rest may be missing.
        sizes: AP by size.
        curves: of each task of the scores.
        garments: drawn, none for predictions of boxes alone.
        photos: the worst, the first the worst of all.
        configuration: of the model.
    """
    environment = Environment(
        loader=PackageLoader("kgdet_d2.engine.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": cell, "heat": heat, "jpeg": jpeg}
    return environment.get_template("page.html").render(
        report=report,
        tables=tables(report, sizes),
        figures=figures(report, curves),
        garments=garments,
        photos=list(photos),
        configuration=configuration,
        versions={"kgdet_d2": f"{__version__}, commit {commit()}", **versions()},
        date=date.today().isoformat(),
        far=FAR,
        scale=(0.01, 0.02, 0.05, FAR),
    )


def tables(report: Mapping, sizes: Table) -> dict[str, list[Table]]:
    """Return the tables of each section of the page, those that have rows."""
    overall, by_class = score_tables(report)
    sections = {
        "scores": [overall, by_class, sizes],
        "subsets": [subset_table(report["subsets"])] if "subsets" in report else [],
    }
    kinds, by_class, taken_for = error_tables(report["errors"], report["garments"])
    sections |= {"confusion": [taken_for], "errors": [kinds, by_class], "oracles": [], "landmarks": []}
    if "oracles" in report:
        sections["oracles"] = [oracle_table(report["oracles"]), matched_table(report["matched"])]
    if "landmark_error" in report:
        sections["landmarks"] = landmark_tables(report["landmark_error"])
    else:
        sections["oracles"] = [of_boxes(table) for table in sections["oracles"]]
    return {name: [table for table in group if table.rows] for name, group in sections.items()}


def of_boxes(table: Table) -> Table:
    """Return a table without the rows and columns on landmarks, and the columns of which nothing is known."""
    digits = [table.digits] * len(table.headers) if isinstance(table.digits, str) else table.digits
    rows = [row for row in table.rows if "landmark" not in str(row[0])]
    columns = [
        column
        for column, header in enumerate(table.headers)
        if "landmark" not in header and any(row[column] == row[column] for row in rows)  # not nan
    ]

    def kept(cells: Sequence) -> list:
        return [cells[column] for column in columns]

    return Table(table.title, kept(table.headers), [kept(row) for row in rows], kept(digits))


def figures(report: Mapping, curves: Mapping[str, AveragePrecision]) -> dict[str, str]:
    """Return the figures as data URIs."""
    errors = report["errors"]
    named = {PANELS[task]: result for task, result in curves.items()}
    at_half = {f"{name}, {'IoU' if name == 'Boxes' else 'OKS'} 0.5": named[name] for name in named}
    with matplotlib.rc_context({"text.parse_math": False}):  # a class may be named "$"
        drawn = {
            "precision_recall": plots.precision_recall_figure(at_half),
            "thresholds": plots.threshold_figure(named),
            "confusion": plots.confusion_figure(errors["confusion"], errors["score_threshold"]),
            "errors": plots.errors_figure(errors["kinds"], errors["AP50"]),
        }
        return {name: _data_uri("image/svg+xml", plots.svg(figure)) for name, figure in drawn.items()}


def cell(table: Table, column: int, value: object) -> str:
    """Return a cell's text: "-" for nan, floats with the column's digits, integers in groups of three."""
    if isinstance(value, float | np.floating):
        digits = table.digits if isinstance(table.digits, str) else table.digits[column]
        return "-" if math.isnan(value) else format(value, digits)
    return f"{value:,}" if isinstance(value, int | np.integer) else str(value)


def heat(error: float) -> str:
    """Return the colour of a landmark's error, from pale at 0 to dark at ``FAR`` and above; grey for nan."""
    if math.isnan(error):
        return "#999999"
    return to_hex(matplotlib.colormaps["YlOrRd"](0.25 + 0.75 * min(error / FAR, 1)))


def jpeg(picture: np.ndarray) -> str:
    """Return a picture, uint8 RGB (h, w, 3), as a data URI."""
    return _data_uri("image/jpeg", encode_jpeg(picture[:, :, ::-1], quality=_JPEG_QUALITY))


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{b64encode(content).decode()}"
