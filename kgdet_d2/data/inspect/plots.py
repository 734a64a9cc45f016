"""Plots of a dataset's statistics, from the rows of :mod:`kgdet_d2.data.inspect.statistics`."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from kgdet_d2.data.inspect.flip_check import (
    AGREES,
    CONTRADICTED,
    OPEN,
    TOO_CLOSE,
    TOO_FEW,
    FlipCheck,
)
from kgdet_d2.data.inspect.statistics import MEDIUM, SMALL, Row
from kgdet_d2.schema import KeypointSchema
from kgdet_d2.structures.annotations import AnnotationTable

_PANEL = (4.2, 3.4)  # inches
_VISIBILITY = {"visible": "tab:blue", "occluded": "tab:orange", "absent": "lightgrey"}
_VERDICTS = {
    AGREES: "tab:green",
    TOO_CLOSE: "tab:orange",
    TOO_FEW: "grey",
    OPEN: "tab:blue",
    CONTRADICTED: "red",
}


def garments_figure(class_rows: Sequence[Row], photo_rows: Sequence[Row]) -> Figure:
    """Plot garments by class, and photos by their number of garments."""
    figure, (left, right) = _panels(2, columns=2)
    bars = left.barh([row["class"] for row in class_rows], [row["garments"] for row in class_rows])
    left.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=7)
    left.invert_yaxis()
    left.margins(x=0.18)
    left.set_xlabel("garments")
    bars = right.bar([row["garments"] for row in photo_rows], [row["photos"] for row in photo_rows])
    right.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=7)
    right.locator_params(axis="x", integer=True)
    right.set(xlabel="garments in a photo", ylabel="photos")
    return figure


def boxes_figure(annotations: AnnotationTable) -> Figure:
    """Plot the sizes of boxes in pixels and relative to their photos, and their form."""
    kept = annotations.has_area
    width, height = (annotations.box[kept, 2:] - annotations.box[kept, :2]).T.astype(np.float64)
    photo = annotations.garment_image[kept]
    figure, axes = _panels(4, columns=2)
    _histogram(axes[0], {"width": width, "height": height}, "side of the box, pixels")
    _histogram(axes[1], {"": np.sqrt(width * height)}, "sqrt(area) of the box, pixels, logarithmic", log=True)
    for area, name in ((SMALL, "small"), (MEDIUM, "medium")):
        axes[1].axvline(np.sqrt(area), color="black", linewidth=0.8, linestyle="--")
        axes[1].annotate(f"{name} ", (np.sqrt(area), 0.95), xycoords=("data", "axes fraction"), ha="right")
    relative = {"width": width / annotations.width[photo], "height": height / annotations.height[photo]}
    _histogram(axes[2], relative, "side of the box / side of the photo")
    _histogram(axes[3], {"": width / height}, "width / height of the box, logarithmic", log=True)
    return figure


def _histogram(axes: Axes, named: dict[str, np.ndarray], label: str, *, log: bool = False) -> None:
    axes.set(xlabel=label, ylabel="garments")
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
    values = np.concatenate(list(named.values()))
    if not len(values):
        return
    edges = np.exp(np.histogram_bin_edges(np.log(values), 60)) if log else np.linspace(0, values.max(), 61)
    for name, column in named.items():
        axes.hist(column, bins=edges.tolist(), histtype="step", label=name)
    if len(named) > 1:
        axes.legend()


def levels_figure(rows: Sequence[Row]) -> Figure:
    """Plot the share of each class's garments on each level."""
    figure, (axes,) = _panels(1, columns=1, size=(7, 4.5))
    names = list(rows[0])[1:]
    counts = np.array([[row[name] for name in names] for row in rows])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    left = np.zeros(len(rows))
    for index, name in enumerate(names):
        colour = f"C{index}"
        axes.barh([row["class"] for row in rows], shares[:, index], left=left, color=colour, label=name)
        left += shares[:, index]
    axes.invert_yaxis()
    axes.set(xlabel="share of garments", xlim=(0, 1))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def keypoints_figure(rows: Sequence[Row]) -> Figure:
    """Plot how often each landmark of each class is visible, occluded, absent."""
    classes = {name: list(group) for name, group in groupby(rows, key=lambda row: row["class"])}
    figure, panels = _panels(len(classes), columns=3, size=(5, 2.2))
    for axes, (name, keypoints) in zip(panels, classes.items(), strict=True):
        numbers = [row["number"] for row in keypoints]
        bottom = np.zeros(len(keypoints))
        for visibility, colour in _VISIBILITY.items():
            shares = np.array([row[visibility] or 0 for row in keypoints])
            axes.bar(numbers, shares, bottom=bottom, color=colour, width=0.9)
            bottom += shares
        axes.set(title=f"{name} ({keypoints[0]['garments']:,})", ylim=(0, 1))
        axes.locator_params(axis="x", integer=True)
    figure.supxlabel("landmark, numbered from 1 in its class")
    _legend(figure, _VISIBILITY)
    return figure


def attributes_figure(rows: Sequence[Row]) -> Figure:
    """Plot the share of each value of each attribute; one panel, empty, where there are none."""
    groups = {key: list(group) for key, group in groupby(rows, key=lambda row: (row["of"], row["attribute"]))}
    figure, panels = _panels(max(len(groups), 1), columns=4, size=(3.2, 2.4))
    for axes, ((kind, name), values) in zip(panels, groups.items(), strict=False):
        bars = axes.bar([row["value"] for row in values], [row["share"] or 0 for row in values])
        axes.bar_label(bars, fmt="{:.0%}", fontsize=7)
        axes.tick_params(axis="x", labelsize=7, rotation=45 if len(values) > 6 else 0)
        axes.set(title=f"{name} (of the {kind})", ylim=(0, 1.1))
    return figure


def flip_map_figure(checks: Sequence[FlipCheck], schema: KeypointSchema) -> Figure:
    """Plot each class's median shape in its box, partners joined, coloured by the check's verdict.

    A landmark that is contradicted or left open is joined by a dashed line with the suggested partner.
    """
    figure, panels = _panels(len(checks), columns=4, size=(3.6, 3.8))
    for axes, check in zip(panels, checks, strict=True):
        for index, (xy, verdict) in enumerate(zip(check.median_xy, check.verdict, strict=True)):
            colour = _VERDICTS[verdict]
            pair = [index, check.partner[index]]
            axes.plot(*check.median_xy[pair].T, color=colour, linewidth=0.8)
            if verdict in (CONTRADICTED, OPEN):
                pair = [index, check.suggested_partner[index]]
                axes.plot(*check.median_xy[pair].T, "--", color=colour, linewidth=0.8)
            if np.isfinite(xy).all():
                x, y = xy
                axes.plot(x, y, "o", color=colour, markersize=4)
                axes.text(x, y, f" {index + 1}", fontsize=7, verticalalignment="bottom", in_layout=False)
        axes.set(title=schema.class_names[check.category_id], xlim=(-0.05, 1.05), ylim=(1.05, -0.05))
    _legend(figure, _VERDICTS)
    return figure


def _panels(count: int, *, columns: int, size: tuple[float, float] = _PANEL) -> tuple[Figure, list[Axes]]:
    """Make a figure of ``count`` panels, row by row, each of the size in inches."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(columns * size[0], rows * size[1] + 0.4), dpi=110, layout="constrained")
    return figure, [figure.add_subplot(rows, columns, number) for number in range(1, count + 1)]


def _legend(figure: Figure, colours: dict[str, str]) -> None:
    patches = [Patch(color=colour, label=label) for label, colour in colours.items()]
    figure.legend(handles=patches, loc="outside upper center", ncols=len(patches))
