"""Figures of an evaluation: matplotlib figures that are not registered with pyplot, so no window opens."""

from collections.abc import Mapping
from io import BytesIO
from itertools import cycle, product
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from kgdet_d2.evaluation.average_precision import AveragePrecision
from kgdet_d2.evaluation.report import MEANINGS, worst_keypoints
from kgdet_d2.utils.io import atomic_write

_RECALLS = np.linspace(0, 1, 101)
_THRESHOLDS = np.linspace(0.5, 0.95, 10)


def save_png(figure: Figure, path: str | Path) -> None:
    """Write the figure, whole or not at all."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=150)


def svg(figure: Figure) -> bytes:
    """Return the figure as an SVG file with letters as shapes, the same for the same figure."""
    content = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "kgdet_d2", "svg.fonttype": "path"}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def confusion_figure(confusion: Mapping, score_threshold: float) -> Figure:
    """Draw the matrix of :func:`error_report`. Colours are shares of a row, numbers are counts."""
    counts = np.array(confusion["counts"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.5 + 0.45 * len(counts)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the row", shrink=0.8)
    axes.set_xticks(
        range(len(counts)), confusion["predicted"], rotation=45, ha="right", rotation_mode="anchor"
    )
    axes.set_yticks(range(len(counts)), confusion["garment"])
    axes.set(xlabel="predicted", ylabel="garment")
    axes.set_title(f"Best score on each garment, detections with a score of {score_threshold:g} or more")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, _short(count), ha="center", va="center", color=colour, fontsize=8)
    return figure


def errors_figure(kinds: Mapping[str, Mapping], average_precision: float) -> Figure:
    """Draw the dAP of each error type, and each class's part of it, from :func:`error_report`."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.4])
    gains = np.nan_to_num([row["dAP"] for row in kinds.values()])
    meanings = [f"{kind}\n{meaning}" for kind, meaning in zip(kinds, MEANINGS.values(), strict=True)]
    bars = left.barh(meanings, gains, color=_colours(len(kinds)))
    left.bar_label(bars, fmt="%.1f", padding=3)
    left.invert_yaxis()
    left.margins(x=0.2)
    left.set(xlabel="dAP (points of AP50)", title=f"Mending one kind, AP50 now {average_precision:.1f}")
    names = list(next(iter(kinds.values()))["by_class"])
    start = np.zeros(len(names))
    for colour, (kind, row) in zip(_colours(len(kinds)), kinds.items(), strict=True):
        part = np.nan_to_num([row["by_class"][name]["dAP"] for name in names])
        right.barh(names, part, left=start, label=kind, color=colour)
        start += part
    right.invert_yaxis()
    right.set(xlabel="dAP, summed over kinds", title="By class")
    right.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def precision_recall_figure(results: Mapping[str, AveragePrecision]) -> Figure:
    """Draw precision against recall of each class at a similarity (IoU or OKS) of 0.5, a panel a title."""
    curves = {title: result.precision[0, :, :, 0, -1].T for title, result in results.items()}
    return _curves_figure(results, _RECALLS, curves, xlabel="recall", ylabel="precision", xlim=(0, 1))


def threshold_figure(results: Mapping[str, AveragePrecision]) -> Figure:
    """Draw AP, 0..1, of each class against the threshold of similarity (IoU or OKS), a panel a title."""
    curves = {title: result.precision[..., 0, -1].mean(axis=1).T for title, result in results.items()}
    return _curves_figure(
        results, _THRESHOLDS, curves, xlabel="least IoU or OKS of a match", ylabel="AP", xlim=(0.5, 0.95)
    )


def _curves_figure(
    results: Mapping[str, AveragePrecision],
    x: np.ndarray,
    curves: Mapping[str, np.ndarray],
    *,
    xlabel: str,
    ylabel: str,
    xlim: tuple[float, float],
) -> Figure:
    """Draw a curve a class, and in black the mean of the classes that have garments.

    Args:
        results: title -> what has the C classes.
        x: float64 (n,).
        curves: title -> float64 (C, n), -1 in a class without garments.
        xlabel: below each panel.
        ylabel: left of the first.
        xlim: of all panels.
    """
    figure = Figure(figsize=(3.6 * len(results) + 1.8, 4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(results), sharey=True))
    for axes, (title, result) in zip(panels, results.items(), strict=True):
        known = np.flatnonzero((curves[title] >= 0).all(axis=1))
        styles = cycle(product(("-", "--", ":"), _colours(10)))
        for index, (name, (line, colour)) in enumerate(zip(result.class_names, styles, strict=False)):
            if index in known:
                axes.plot(x, curves[title][index], line, color=colour, label=name, linewidth=1.4)
        if len(known):
            axes.plot(x, curves[title][known].mean(axis=0), color="black", label="mean", linewidth=2.4)
        axes.set(xlabel=xlabel, title=title, xlim=xlim, ylim=(0, 1.02))
        axes.locator_params(axis="x", nbins=5)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(ylabel)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure


def keypoint_figure(by_keypoint: Mapping[str, Mapping]) -> Figure:
    """Draw the NE of the worst landmarks of :func:`keypoint_report`, and the number of garments found."""
    worst = worst_keypoints(by_keypoint)
    figure = Figure(figsize=(9, 1.5 + 0.3 * max(len(worst), 3)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(list(worst), [row["NE"] for row in worst.values()], color=_colours(1))
    axes.bar_label(bars, [f"{row['garments_found']:,}" for row in worst.values()], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set(xlabel="NE, distance relative to the image's width and height")
    axes.set_title(f"The {len(worst)} worst landmarks, and on how many garments")
    return figure


def _colours(count: int) -> list:
    return [matplotlib.colormaps["tab10"](index) for index in range(count)]


def _short(count: int) -> str:
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k"
