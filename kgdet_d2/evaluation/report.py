"""The report of an evaluation: a dict that JSON can hold, tables of it, and a list of errors.

A report is ``{"dataset", "predictions", "oks_sigmas": the config file that has them, "photos",
"photos_predicted", "detections", "garments": {class: count}, "scores": {task: AveragePrecision.summary()},
"landmark_error": {"visible", "labelled": keypoint_report()}, "subsets": subset_scores(), "errors":
error_report(), "oracles": oracle_scores(), "matched": matched_summary()}``; the sigmas, where they are the
dataset's own, and what follows the garments may be missing. Where there was nothing to compute from there is
nan.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from kgdet_d2.evaluation.keypoint_error import THRESHOLDS, KeypointErrors
from kgdet_d2.evaluation.tide import ERRORS, DetectionErrors, ErrorType, confusion_matrix

TASKS = {"bbox": "box", "keypoints": "landmarks", "keypoints_visible": "visible landmarks"}
MEANINGS = {
    ErrorType.CLS: "place right, class wrong",
    ErrorType.LOC: "class right, place inexact",
    ErrorType.BOTH: "class wrong, place inexact",
    ErrorType.DUPE: "garment found before",
    ErrorType.BKG: "no garment there",
    ErrorType.MISS: "garment not found",
}
WORST = 20
_AP = ("AP", "AP50", "AP75")


class Table(NamedTuple):
    """A table of a report.

    Attributes:
        title: one line.
        headers: of the columns.
        rows: of cells, each as long as the headers: str, int, float, nan for what is not known.
        digits: Python's format of the floats, of all columns or of each.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence]
    digits: str | Sequence[str] = ".2f"

    def markdown(self) -> str:
        """Return a heading and the table, "-" for nan."""
        body = tabulate(
            _nulled(self.rows), self.headers, tablefmt="pipe", floatfmt=self.digits, missingval="-"
        )
        return f"## {self.title}\n\n{body}"


def keypoint_report(errors: KeypointErrors) -> dict[str, dict]:
    """Return normalised errors and PCK, overall, by class and by landmark."""
    return {
        "overall": errors.overall(),
        "by_class": errors.by_class(),
        "by_landmark": errors.by_keypoint(),
    }


def error_report(errors: DetectionErrors, *, score_threshold: float) -> dict:
    """Return TIDE's errors and the confusion matrix.

    Args:
        errors: the errors of all detections.
        score_threshold: the least score of detections in the confusion matrix.

    Returns:
        ``{"AP50": in percent, "kinds": {"Cls": {"count", "dAP": in percent, "by_class": {class: {"count",
        "dAP"}}}, ...}, "score_threshold": that, "confusion": {"garment": C + 1 names, "predicted": C + 1
        names, "counts": C + 1 lists}}``. AP50 and kinds are of all detections, the confusion is of those with
        that score or a higher one, see :func:`confusion_matrix`.
    """
    names = errors.matcher.ground_truth.schema.class_names
    counts, gains = errors.counts(), errors.delta_average_precision()
    kinds = {}
    for error in ERRORS:
        by_class = {}
        for index, name in enumerate(names):
            by_class[name] = {"count": int(counts[error][index]), "dAP": 100 * float(gains[error][index])}
        kinds[type_name(error)] = {
            "count": int(counts[error].sum()),
            "dAP": 100 * _nanmean(gains[error]),
            "by_class": by_class,
        }
    confusion = confusion_matrix(errors.matcher, score_threshold=score_threshold)
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


def type_name(error: ErrorType) -> str:
    """Return an error type's name in reports, such as "Cls"."""
    return error.name.capitalize()


def report_json(report: Mapping) -> bytes:
    """Return the report as JSON, null for nan."""
    return json.dumps(_nulled(report), indent=2, allow_nan=False).encode() + b"\n"


def errors_csv(errors: DetectionErrors, *, score_threshold: float) -> Iterator[bytes]:
    """Generate a line for each wrong detection with that score or a higher one and each garment they miss.

    ``kind`` is TIDE's error type. The garment is the one it would be (Cls, Loc) or that was found before
    (Dupe); the other types of detections have none. Boxes are x1 y1 x2 y2 in pixels.
    """
    truth, predictions = errors.matcher.ground_truth, errors.matcher.predictions
    names = truth.schema.class_names
    corners = ("x1", "y1", "x2", "y2")
    columns = ["image_id", "kind", "score", "predicted", *corners, "garment"]
    yield _csv_line([*columns, *(f"garment_{corner}" for corner in corners)])

    def box_cells(box: np.ndarray) -> list[str]:
        return [f"{corner:.1f}" for corner in box]

    def garment_cells(row: int) -> list[str]:
        if row < 0:
            return [""] * 5
        return [names[truth.category_id[row]], *box_cells(truth.box[row])]

    wrong = np.isin(errors.error_type, ERRORS) & (predictions.score >= score_threshold)
    for row in np.flatnonzero(wrong).tolist():
        image_id = predictions.image_id[predictions.detection_image[row]]
        kind = type_name(ErrorType(errors.error_type[row]))
        score, predicted = f"{predictions.score[row]:.4f}", names[predictions.category_id[row]]
        detection_cells = [image_id, kind, score, predicted, *box_cells(predictions.box[row])]
        yield _csv_line([*detection_cells, *garment_cells(errors.garment[row])])
    for row in np.flatnonzero(errors.missed(score_threshold)).tolist():
        image_id = truth.image_id[truth.garment_image[row]]
        yield _csv_line([image_id, type_name(ErrorType.MISS), *[""] * 6, *garment_cells(row)])


def _csv_line(cells: Sequence) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def markdown(report: Mapping) -> str:
    """Return the report's tables, a heading above each. AP and PCK are in percent, "-" is for nan."""
    predicted, images = report["photos_predicted"], report["photos"]
    heading = (
        f"# {report['dataset']}\n\n{report['predictions']}: {report['detections']:,} detections in "
        f"{predicted:,} of {images:,} photos with {sum(report['garments'].values()):,} garments."
    )
    if "oks_sigmas" in report:
        heading += f" OKS has the sigmas of {report['oks_sigmas']}."
    tables: list[Table] = []
    if "scores" in report:
        tables += score_tables(report)
    if "landmark_error" in report:
        tables += landmark_tables(report["landmark_error"])
    if "subsets" in report:
        tables.append(subset_table(report["subsets"]))
    if "errors" in report:
        tables += error_tables(report["errors"], report["garments"])
    if "oracles" in report:
        tables += [oracle_table(report["oracles"]), matched_table(report["matched"])]
    return "\n\n".join([heading, *(table.markdown() for table in tables)]) + "\n"


def score_tables(report: Mapping) -> list[Table]:
    """Return the table of AP overall and by size, and the one by class."""
    scores = report["scores"]
    titles = [TASKS[task] for task in scores]
    columns = [*_AP, "APs", "APm", "APl", "AR", "ARs", "ARm", "ARl"]
    rows = []
    for task, title in zip(scores, titles, strict=True):
        values = {"AR": scores[task].get("AR100"), **scores[task]}  # of boxes COCO's AR is that of 100
        rows.append([title, *(values.get(column, math.nan) for column in columns)])
    overall = Table("Average precision", ["", *columns], rows)
    rows = []
    for name, count in report["garments"].items():
        rows.append([name, count, *(scores[task][f"AP-{name}"] for task in scores)])
    headers = ["class", "garments", *(f"{title} AP" for title in titles)]
    return [overall, Table("Average precision by class", headers, rows)]


def subset_table(subsets: Sequence[Mapping]) -> Table:
    """Return the table of AP by attribute."""
    tasks = [task for task in TASKS if all(task in row for row in subsets)]
    columns = list(product(tasks, _AP))
    headers = ["attribute", "value", "garments", *(f"{TASKS[task]} {score}" for task, score in columns)]
    rows = []
    for row in subsets:
        scores = [row[task][score] for task, score in columns]
        rows.append([row["attribute"], row["name"], row["garments"], *scores])
    return Table("Average precision by attribute", headers, rows)


def landmark_tables(errors: Mapping[str, Mapping]) -> list[Table]:
    """Return tables of visible and of labelled landmarks, overall and by class, and the worst visible."""
    tables = []
    for labelled, scores in errors.items():
        rows = {name: row for name, row in scores["by_class"].items() if row["garments"]} | scores["overall"]
        tables.append(_landmark_table(f"Landmark error, {labelled} landmarks", rows))
    worst = worst_keypoints(errors["visible"]["by_landmark"])
    return [*tables, _landmark_table(f"The {len(worst)} worst landmarks of the visible", worst)]


def worst_keypoints(by_keypoint: Mapping[str, Mapping], count: int = WORST) -> dict[str, Mapping]:
    """Return the landmarks with the highest NE, the highest first, without those that were never found."""
    found = [name for name, row in by_keypoint.items() if not math.isnan(row["NE"])]
    worst = sorted(found, key=lambda name: -by_keypoint[name]["NE"])[:count]
    return {name: by_keypoint[name] for name in worst}


def _landmark_table(title: str, rows: Mapping[str, Mapping]) -> Table:
    shares = [f"{name}@{threshold:g}" for threshold, name in product(THRESHOLDS, ("PCK", "PCK_all"))]
    scores = ["garments", "garments_found", "NE", "NE_box", *shares]
    cells = [[name, *(row[score] for score in scores)] for name, row in rows.items()]
    digits = ["", "", "", ".4f", ".4f", *[".2f"] * len(shares)]
    return Table(title, ["", "garments", "found", *scores[2:]], cells, digits)


def error_tables(errors: Mapping, garments: Mapping[str, int]) -> list[Table]:
    """Return the tables of kinds of errors, of these by class, and of what garments are taken for."""
    kinds, threshold = errors["kinds"], errors["score_threshold"]
    rows: list[list] = []
    for error, meaning in MEANINGS.items():
        row = kinds[type_name(error)]
        rows.append([type_name(error), meaning, row["count"], row["dAP"]])
    rows.append(["", "AP50 as it is", math.nan, errors["AP50"]])
    title = "Errors of boxes, and the AP50 that mending one kind would gain (dAP)"
    overall = Table(title, ["kind", "meaning", "count", "dAP"], rows)
    rows = []
    for name, count in garments.items():
        rows.append([name, count, *(row["by_class"][name]["dAP"] for row in kinds.values())])
    by_class = Table("dAP by class", ["class", "garments", *kinds], rows)
    rows = []
    for index, (name, count) in enumerate(garments.items()):
        if count:
            rows.append([name, count, *_confusion_cells(errors["confusion"], index)])
    headers = ["class", "garments", "right", "missed", "most often taken for", "times"]
    title = f"What garments are taken for, with a score of {threshold:g} or more"
    return [overall, by_class, Table(title, headers, rows)]


def oracle_table(oracles: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """Return the table of AP by oracle."""
    columns = list(product(("bbox", "keypoints"), ("AP", "AP50")))
    rows = [[name, *(scores[task][score] for task, score in columns)] for name, scores in oracles.items()]
    headers = ["detections", *(f"{TASKS[task]} {score}" for task, score in columns)]
    return Table("Average precision by oracles, IoU 0.5 or more with a garment", headers, rows)


def matched_table(matched: Mapping[str, float]) -> Table:
    """Return the table of how true matched detections are, of one row."""
    headers = {
        "garments": "garments",
        "found": "found",
        "right_class": "right class, %",
        "median_IoU": "median IoU",
        "compared": "landmarks compared in",
        "landmark_error": "landmark error / sqrt(area)",
        "common_shift": "common shift / sqrt(area)",
    }
    digits = ["", "", ".2f", ".4f", "", ".4f", ".4f"]
    rows = [[matched[name] for name in headers]]
    return Table("Detections matched with garments", list(headers.values()), rows, digits)


def _confusion_cells(confusion: Mapping, index: int) -> list:
    """Return right, missed, the commonest wrong class and its count."""
    *counts, missed = confusion["counts"][index]
    counts = np.array(counts)
    right, counts[index] = counts[index], 0
    other = counts.argmax()
    name = confusion["predicted"][other] if counts[other] else "-"
    return [right, missed, name, counts[other]]


def _nanmean(values: np.ndarray) -> float:
    """Return the mean of what is not nan, nan of nothing, without numpy's warning."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _nulled(value: Any) -> Any:
    """Return a copy of nested mappings, lists and tuples with None for nan."""
    if isinstance(value, Mapping):
        return {key: _nulled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nulled(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
