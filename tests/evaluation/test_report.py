"""The report's tables, its JSON and its list of errors."""

import csv
import json
import math

import numpy as np
import pytest

from kgdet_d2.evaluation.matching import BoxMatcher
from kgdet_d2.evaluation.report import (
    error_report,
    errors_csv,
    markdown,
    report_json,
    worst_keypoints,
)
from kgdet_d2.evaluation.tide import ERRORS, ErrorType, find_errors
from kgdet_d2.schema import DEEPFASHION2
from tests.helpers.columns import by_hand, columns

BOX, AWAY = (100, 100, 200, 200), (0, 0, 50, 50)


def find(case):
    return find_errors(BoxMatcher(*case))


def read(lines):
    return list(csv.DictReader(line.decode() for line in lines))


def test_error_report(make_scene):
    errors = find(columns(make_scene(np.random.default_rng(0), images=20, classes=range(4))))
    report = error_report(errors, score_threshold=0.4)
    assert list(report["kinds"]) == ["Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"]
    for kind, row in zip(ERRORS, report["kinds"].values(), strict=True):
        gains = errors.delta_average_precision()[kind]
        assert row["dAP"] == pytest.approx(100 * np.nanmean(gains))
        assert row["count"] == sum(part["count"] for part in row["by_class"].values())
        assert list(row["by_class"]) == list(DEEPFASHION2.class_names)
        for part, gain in zip(row["by_class"].values(), gains, strict=True):
            assert part["dAP"] == pytest.approx(100 * gain, nan_ok=True)
    assert report["AP50"] == pytest.approx(100 * np.nanmean(errors.average_precision()))
    assert np.array(report["confusion"]["counts"]).shape == (14, 14)
    assert report["confusion"]["garment"][-1] == "background"
    assert report["confusion"]["predicted"][-1] == "missed"


def test_list_of_errors(make_instances):
    detections = [
        ("skirt", BOX, 0.9),
        ("vest", BOX, 0.8),
        ("vest", (60, 0, 90, 50), 0.7),
        ("vest", AWAY, 0.2),
    ]
    errors = find(by_hand(make_instances, ([], []), ([("skirt", BOX), ("shorts", AWAY)], detections)))
    rows = read(errors_csv(errors, score_threshold=0.3))
    assert [row["kind"] for row in rows] == ["Cls", "Bkg", "Miss"]
    wrong, background, missed = rows
    corners = ("x1", "y1", "x2", "y2")
    assert (wrong["image_id"], wrong["predicted"], wrong["garment"]) == ("2", "vest", "skirt")
    assert float(wrong["score"]) == pytest.approx(0.8)
    assert [float(wrong[corner]) for corner in corners] == list(BOX)
    assert [float(wrong[f"garment_{corner}"]) for corner in corners] == list(BOX)
    assert background["garment"] == background["garment_x1"] == ""
    assert (missed["image_id"], missed["garment"], missed["predicted"]) == ("2", "shorts", "")
    assert [float(missed[f"garment_{corner}"]) for corner in corners] == list(AWAY)
    assert [row["kind"] for row in read(errors_csv(errors, score_threshold=0.95))] == ["Miss", "Miss"]


def test_the_list_holds_every_error(make_scene):
    errors = find(columns(make_scene(np.random.default_rng(1), images=20)))
    rows = read(errors_csv(errors, score_threshold=0))
    for kind in ERRORS:
        count = sum(row["kind"] == kind.name.capitalize() for row in rows)
        assert count == errors.counts()[kind].sum()
    assert not any(row["kind"] in ("Correct", "Ignored") for row in rows)
    assert ErrorType.CORRECT in errors.error_type


def test_worst_landmarks():
    by_keypoint = {name: {"NE": error} for name, error in zip("abcd", (0.1, math.nan, 0.3, 0.2), strict=True)}
    assert list(worst_keypoints(by_keypoint)) == ["c", "d", "a"]
    assert list(worst_keypoints(by_keypoint, count=1)) == ["c"]


def test_nan_is_null_and_a_dash():
    report = {"a": [math.nan, 1.5, "x"], "b": {"c": (math.nan, 2)}}
    assert json.loads(report_json(report)) == {"a": [None, 1.5, "x"], "b": {"c": [None, 2]}}
    with pytest.raises(ValueError, match="not JSON compliant"):
        report_json({"a": math.inf})


def test_tables():
    scores = {"AP": 12.345, "AP50": 50.0, "AP75": math.nan, "AP-upper": math.nan, "AP-lower": 7.0}
    overall = {"garments": 3, "garments_found": 2, "NE": 0.01234, "NE_box": 0.1}
    overall |= {f"{name}@{t}": 50.0 for name in ("PCK", "PCK_all") for t in (0.05, 0.1, 0.2)}
    nothing = {name: 0 if "garments" in name else math.nan for name in overall}
    errors = {
        "overall": {"all": overall},
        "by_class": {"upper": nothing, "lower": overall},
        "by_landmark": {"hem_left": overall, "hem_right": nothing},
    }
    report = {
        "dataset": "some_data",
        "predictions": "p.npz",
        "photos": 4,
        "photos_predicted": 3,
        "detections": 1234,
        "garments": {"upper": 0, "lower": 3},
        "scores": {
            "bbox": {**scores, "AR100": 44.0},
            "keypoints": {**scores, "AR": 33.0},
            "keypoints_visible": scores,
        },
        "landmark_error": {"visible": errors, "labelled": errors},
    }
    text = markdown(report)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert "p.npz: 1,234 detections in 3 of 4 photos with 3 garments." in text
    assert ["box", "12.35", "50.00", "-", "-", "-", "-", "44.00", "-", "-", "-"] in cells
    assert ["lower", "3", "7.00", "7.00", "7.00"] in cells and ["upper", "0", "-", "-", "-"] in cells
    assert ["hem_left", "3", "2", "0.0123", "0.1000", *["50.00"] * 6] in cells
    assert "hem_right" not in text and "nan" not in text
