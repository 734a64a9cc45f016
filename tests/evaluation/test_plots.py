"""Figures of an evaluation."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import pyplot

from kgdet_d2.evaluation import plots
from kgdet_d2.evaluation.average_precision import box_average_precision
from kgdet_d2.evaluation.keypoint_error import keypoint_errors
from kgdet_d2.evaluation.matching import BoxMatcher
from kgdet_d2.evaluation.report import error_report
from kgdet_d2.evaluation.tide import find_errors
from kgdet_d2.schema import FLD
from tests.helpers.columns import by_hand, columns

CONFUSION = {
    "garment": ["upper", "lower", "background"],
    "predicted": ["upper", "lower", "missed"],
    "counts": [[8, 2, 0], [0, 12_345, 5], [3, 0, 0]],
}


def written(axes):
    return [text.get_text() for text in axes.texts]


def test_confusion():
    figure = plots.confusion_figure(CONFUSION, 0.3)
    axes = figure.axes[0]
    assert sorted(written(axes)) == sorted(["8", "2", "12k", "5", "3"])
    shares = axes.images[0].get_array()
    assert shares[0].tolist() == [0.8, 0.2, 0] and shares[2].tolist() == [1, 0, 0]
    assert [label.get_text() for label in axes.get_xticklabels()] == CONFUSION["predicted"]
    assert [label.get_text() for label in axes.get_yticklabels()] == CONFUSION["garment"]


def test_errors(make_scene):
    matcher = BoxMatcher(*columns(make_scene(np.random.default_rng(0), FLD, images=20)))
    report = error_report(find_errors(matcher), score_threshold=0.3)
    left, right = plots.errors_figure(report["kinds"], report["AP50"]).axes
    gains = [row["dAP"] for row in report["kinds"].values()]
    assert [bar.get_width() for bar in left.patches] == pytest.approx(gains)
    assert len(right.patches) == 6 * 3  # stacked, kind by kind
    ends = [bar.get_x() + bar.get_width() for bar in right.patches[-3:]]
    sums = [sum(row["by_class"][name]["dAP"] for row in report["kinds"].values()) for name in FLD.class_names]
    assert ends == pytest.approx(sums)


def test_precision_and_recall(make_scene):
    truth, predictions = columns(make_scene(np.random.default_rng(0), FLD, classes=[0, 2], images=20))
    (result,) = box_average_precision(truth, predictions)
    figure = plots.precision_recall_figure({"boxes": result, "again": result})
    assert [axes.get_title() for axes in figure.axes] == ["boxes", "again"]
    for axes in figure.axes:
        assert [line.get_label() for line in axes.lines] == ["upper", "full", "mean"]  # no lower to be found
        assert np.array_equal(axes.lines[0].get_ydata(), result.precision[0, :, 0, 0, -1])
        assert axes.lines[2].get_ydata().mean() == pytest.approx(result.summary()["AP50"] / 100)


def test_thresholds(make_scene):
    truth, predictions = columns(make_scene(np.random.default_rng(0), FLD, classes=[0, 2], images=20))
    (result,) = box_average_precision(truth, predictions)
    (axes,) = plots.threshold_figure({"boxes": result}).axes
    summary = result.summary()
    curves = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert {name: 100 * curve.mean() for name, curve in curves.items()} == pytest.approx(
        {"upper": summary["AP-upper"], "full": summary["AP-full"], "mean": summary["AP"]}
    )
    ap75 = curves["mean"][axes.lines[0].get_xdata().round(2).tolist().index(0.75)]
    assert [100 * curves["mean"][0], 100 * ap75] == pytest.approx([summary["AP50"], summary["AP75"]])


def test_svg():
    first, second = (plots.svg(plots.confusion_figure(CONFUSION, 0.3)) for _ in range(2))
    assert first == second and ElementTree.fromstring(first).tag.endswith("svg")


def test_landmarks():
    by_keypoint = {
        f"landmark {number}": {
            "NE": number / 100 if number % 2 else math.nan,
            "garments_found": 1000 * number,
        }
        for number in range(60)
    }
    (axes,) = plots.keypoint_figure(by_keypoint).axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(np.arange(59, 19, -2) / 100)
    assert written(axes)[0] == "59,000"


def test_files_of_nothing(make_instances, tmp_path):
    """No garment and no detection: figures without curves and bars; and no window has been asked for."""
    truth, predictions = by_hand(make_instances, ([], []))
    matcher = BoxMatcher(truth, predictions)
    report = error_report(find_errors(matcher), score_threshold=0.3)
    by_keypoint = keypoint_errors(matcher, visible_only=True).by_keypoint()
    figures = {
        "confusion": plots.confusion_figure(report["confusion"], 0.3),
        "errors": plots.errors_figure(report["kinds"], report["AP50"]),
        "curves": plots.precision_recall_figure({"boxes": box_average_precision(truth, predictions)[0]}),
        "landmarks": plots.keypoint_figure(by_keypoint),
    }
    for name, figure in figures.items():
        plots.save_png(figure, tmp_path / "figures" / f"{name}.png")
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "figures").iterdir())) == len(figures)
    assert pyplot.get_fignums() == []
