"""Tables of results that training and evaluation write to the log."""

import logging

from detectron2.config import CfgNode
from tabulate import tabulate

logger = logging.getLogger(__name__)


def log_summary(cfg: CfgNode, results: dict) -> None:
    """Log box AP and landmark AP of each test dataset as one table.

    Args:
        cfg: the datasets, ``DATASETS.TEST``.
        results: ``{task: {metric: score}}``; of several datasets ``{dataset: {task: {metric: score}}}``.
    """
    names = cfg.DATASETS.TEST
    by_dataset = {names[0]: results} if len(names) == 1 else results
    columns = [(task, metric) for task in ("bbox", "keypoints") for metric in ("AP", "AP50", "AP75")]
    rows = []
    for name, scores in by_dataset.items():
        rows.append([name, *(scores.get(task, {}).get(metric, float("nan")) for task, metric in columns)])
    titles = {"bbox": "box", "keypoints": "landmark"}
    headers = ["", *(f"{titles[task]} {metric}" for task, metric in columns)]
    logger.info("Results:\n%s", tabulate(rows, headers=headers, floatfmt=".2f", tablefmt="pipe"))


def log_retrieval(dataset: str, results: dict) -> None:
    """Log the top-k accuracies with detected and with annotated boxes.

    Args:
        dataset: its name.
        results: its scores, with "retrieval" and "retrieval_gt_boxes" among them, in percent.
    """
    kinds = {"detected": results["retrieval"], "annotated": results["retrieval_gt_boxes"]}
    rows = [[f"{boxes} boxes", *scores.values()] for boxes, scores in kinds.items()]
    headers = [dataset, *results["retrieval"]]
    logger.info("Retrieval, %%:\n%s", tabulate(rows, headers=headers, floatfmt=".2f", tablefmt="pipe"))
