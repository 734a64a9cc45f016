"""What tools/evaluate_predictions.py reports: a dict that JSON can hold, tables of it, and a list of errors.

A report is ``{"dataset", "predictions", "photos", "photos_predicted", "detections", "garments": {class:
count}, "scores": {task: AveragePrecision.summary()}, "landmark_error": {"visible", "labelled":
landmark_report()}, "subsets": subset_scores(), "errors": error_report()}``; the last two may be missing.
Where there was nothing to compute from there is nan.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from tabulate import tabulate

from kgdet_d2.evaluation.keypoint_error import THRESHOLDS, KeypointErrors
from kgdet_d2.evaluation.tide import ERRORS, DetectionErrors, Kind, confusion_matrix

TASKS = {"bbox": "box", "keypoints": "landmarks", "keypoints_visible": "visible landmarks"}
MEANINGS = {
    Kind.CLS: "place right, class wrong",
    Kind.LOC: "class right, place inexact",
    Kind.BOTH: "class wrong, place inexact",
    Kind.DUPE: "garment found before",
    Kind.BKG: "no garment there",
    Kind.MISS: "garment not found",
}
WORST = 20
_AP = ("AP", "AP50", "AP75")


def keypoint_report(errors: KeypointErrors) -> dict[str, dict]:
    """Normalised errors and PCK, overall, by class and by landmark."""
    return {
        "overall": errors.overall(),
        "by_class": errors.by_class(),
        "by_landmark": errors.by_keypoint(),
    }


def error_report(errors: DetectionErrors, *, score_threshold: float) -> dict:
    """TIDE's errors and the confusion matrix.

    Returns:
        ``{"AP50": in percent, "kinds": {"Cls": {"count", "dAP": in percent, "by_class": {class: {"count",
        "dAP"}}}, ...}, "score_threshold": that, "confusion": {"garment": C + 1 names, "predicted": C + 1
        names, "counts": C + 1 lists}}``. AP50 and kinds are of all detections, the confusion is of those with
        that score or a higher one, see :func:`confusion_matrix`.
    """
    truth = errors.overlaps.ground_truth
    names = truth.schema.class_names
    counts, gains = errors.counts(), errors.delta_average_precision()
    kinds = {}
    for kind in ERRORS:
        rows = zip(counts[kind].tolist(), (100 * gains[kind]).tolist(), strict=True)
        by_class = {
            name: {"count": count, "dAP": gain} for name, (count, gain) in zip(names, rows, strict=True)
        }
        kinds[kind.name.capitalize()] = {
            "count": int(counts[kind].sum()),
            "dAP": 100 * _nanmean(gains[kind]),
            "by_class": by_class,
        }
    confusion = confusion_matrix(errors.overlaps, score_threshold=score_threshold)
    return {
        "AP50": 100 * _nanmean(errors.average_precision()),
        "kinds": kinds,
        "score_threshold": score_threshold,
        "confusion": {
            "garment": [*names, "background"],
            "predicted": [*names, "missed"],
            "counts": confusion.tolist(),
        },
    }


def report_json(report: Mapping) -> bytes:
    """The report as JSON, null for nan."""
    return json.dumps(_nulled(report), indent=2, allow_nan=False).encode() + b"\n"


def errors_csv(errors: DetectionErrors, *, score_threshold: float) -> Iterator[bytes]:
    """One line for each wrong detection with that score or a higher one, and each garment that these miss.

    ``kind`` is TIDE's. The garment is the one it would be (Cls, Loc) or that was found before (Dupe); the
    other kinds of detections have none. Boxes are x1 y1 x2 y2 in pixels.
    """
    truth, predictions = errors.overlaps.ground_truth, errors.overlaps.predictions
    names = truth.schema.class_names
    corners = ("x1", "y1", "x2", "y2")
    columns = ["image_id", "kind", "score", "predicted", *corners, "garment"]
    yield _csv_line([*columns, *(f"garment_{corner}" for corner in corners)])

    def box(corners: np.ndarray) -> list[str]:
        return [f"{corner:.1f}" for corner in corners]

    def garment(row: int) -> list[str]:
        return [names[truth.category_id[row]], *box(truth.box[row])] if row >= 0 else [""] * 5

    wrong = np.isin(errors.kind, ERRORS) & (predictions.score >= score_threshold)
    for row in np.flatnonzero(wrong).tolist():
        image_id, kind = predictions.image_id[predictions.detection_image[row]], Kind(errors.kind[row])
        found = [
            f"{predictions.score[row]:.4f}",
            names[predictions.category_id[row]],
            *box(predictions.box[row]),
        ]
        yield _csv_line([image_id, kind.name.capitalize(), *found, *garment(errors.garment[row])])
    for row in np.flatnonzero(errors.missed(score_threshold)).tolist():
        image_id = truth.image_id[truth.garment_image[row]]
        yield _csv_line([image_id, "Miss", *[""] * 6, *garment(row)])


def _csv_line(cells: Sequence) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def markdown(report: Mapping) -> str:
    """The report's tables, a heading above each. AP and PCK are in percent, "-" is for nan."""
    predicted, photos = report["photos_predicted"], report["photos"]
    parts = [
        f"# {report['dataset']}\n\n{report['predictions']}: {report['detections']:,} detections in "
        f"{predicted:,} of {photos:,} photos with {sum(report['garments'].values()):,} garments.",
        *_score_tables(report),
    ]
    if "landmark_error" in report:
        parts += _landmark_tables(report["landmark_error"])
    if "subsets" in report:
        parts.append(_subset_table(report["subsets"]))
    if "errors" in report:
        parts += _error_tables(report["errors"], report["garments"])
    return "\n\n".join(parts) + "\n"


def _score_tables(report: Mapping) -> list[str]:
    scores = report["scores"]
    columns = [*_AP, "APs", "APm", "APl", "AR", "ARs", "ARm", "ARl"]
    rows, titles = [], [TASKS[task] for task in scores]
    for task, title in zip(scores, titles, strict=True):
        values = {"AR": scores[task].get("AR100"), **scores[task]}  # of boxes COCO's AR is that of 100
        rows.append([title, *(values.get(column, math.nan) for column in columns)])
    overall = _table("Average precision", ["", *columns], rows)
    rows = [
        [name, count, *(scores[task][f"AP-{name}"] for task in scores)]
        for name, count in report["garments"].items()
    ]
    headers = ["class", "garments", *(f"{title} AP" for title in titles)]
    return [overall, _table("Average precision by class", headers, rows)]


def _subset_table(subsets: Sequence[Mapping]) -> str:
    tasks = [task for task in TASKS if all(task in row for row in subsets)]
    headers = ["attribute", "value", "garments"]
    headers += [f"{TASKS[task]} {score}" for task in tasks for score in _AP]
    rows = [
        [row["attribute"], row["name"], row["garments"], *(row[t][s] for t in tasks for s in _AP)]
        for row in subsets
    ]
    return _table("Average precision by attribute", headers, rows)


def _landmark_tables(errors: Mapping[str, Mapping]) -> list[str]:
    """Overall and by class for visible landmarks and for labelled ones, the worst of the visible."""
    tables = []
    for labelled, scores in errors.items():
        rows = {name: row for name, row in scores["by_class"].items() if row["garments"]} | scores["overall"]
        tables.append(_landmark_table(f"Landmark error, {labelled} landmarks", rows))
    worst = worst_keypoints(errors["visible"]["by_landmark"])
    return [*tables, _landmark_table(f"The {len(worst)} worst landmarks of the visible", worst)]


def worst_keypoints(by_keypoint: Mapping[str, Mapping], count: int = WORST) -> dict[str, Mapping]:
    """Those with the highest NE, the highest first; landmarks that were never found are not among them."""
    known = [(name, row) for name, row in by_keypoint.items() if not math.isnan(row["NE"])]
    return dict(sorted(known, key=lambda item: -item[1]["NE"])[:count])


def _landmark_table(title: str, rows: Mapping[str, Mapping]) -> str:
    shares = [f"{name}@{threshold:g}" for threshold in THRESHOLDS for name in ("PCK", "PCK_all")]
    scores = ["garments", "garments_found", "NE", "NE_box", *shares]
    cells = [[name, *(row[score] for score in scores)] for name, row in rows.items()]
    digits = ["", "", "", ".4f", ".4f", *[".2f"] * len(shares)]
    return _table(title, ["", "garments", "found", *scores[2:]], cells, digits)


def _error_tables(errors: Mapping, garments: Mapping[str, int]) -> list[str]:
    kinds, threshold = errors["kinds"], errors["score_threshold"]
    rows = [
        [kind.name.capitalize(), MEANINGS[kind], row["count"], row["dAP"]]
        for kind, row in zip(MEANINGS, kinds.values(), strict=True)
    ]
    rows.append(["", "AP50 as it is", math.nan, errors["AP50"]])
    title = "Errors of boxes, and the AP50 that mending one kind would gain (dAP)"
    overall = _table(title, ["kind", "meaning", "count", "dAP"], rows)
    rows = [
        [name, count, *(kinds[kind]["by_class"][name]["dAP"] for kind in kinds)]
        for name, count in garments.items()
    ]
    by_class = _table("dAP by class", ["class", "garments", *kinds], rows)
    rows = [
        [name, count, *_taken_for(errors["confusion"], index)]
        for index, (name, count) in enumerate(garments.items())
        if count
    ]
    headers = ["class", "garments", "right", "missed", "most often taken for", "times"]
    return [
        overall,
        by_class,
        _table(f"What garments are taken for, with a score of {threshold:g} or more", headers, rows),
    ]


def _taken_for(confusion: Mapping, index: int) -> list:
    """Right, missed, the commonest wrong class and how often."""
    *counts, missed = confusion["counts"][index]
    counts = np.array(counts)
    right, counts[index] = counts[index], 0
    other = counts.argmax()
    name = confusion["predicted"][other] if counts[other] else "-"
    return [right, missed, name, counts[other]]


def _table(
    title: str, headers: Sequence[str], rows: Sequence[Sequence], digits: str | Sequence[str] = ".2f"
) -> str:
    body = tabulate(_nulled(rows), headers, tablefmt="pipe", floatfmt=digits, missingval="-")
    return f"## {title}\n\n{body}"


def _nanmean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _nulled(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _nulled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nulled(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
