"""The command ``kgdet errors``: what is wrong with stored predictions, and what it costs."""

import argparse

from kgdet_d2.engine.evaluate import landmark_error, load, report_parser, subject, write_errors, write_report
from kgdet_d2.evaluation.matching import BoxMatcher
from kgdet_d2.evaluation.oracle import matched_summary, oracle_scores
from kgdet_d2.evaluation.report import error_report, markdown
from kgdet_d2.evaluation.tide import find_errors

DESCRIPTION = """Tell what is wrong with stored predictions, and what AP it costs.

    kgdet errors --dataset deepfashion2_val --oracle --output output/errors \\
        --predictions output/kgdet_R50/inference/deepfashion2_val/predictions.npz

Printed are the landmarks' normalised error (NE) and PCK, TIDE's errors with the AP50 that each kind costs,
and the confusion between classes: the analyses of "kgdet evaluate --errors" without AP. Further:

    --oracle              box AP and landmark AP if the class, the box or the landmarks of the detections on
                          garments were true, or their landmarks' error halved or quartered; and how true they
                          are now
    --output DIR          errors.md, errors.json, figures, and errors.csv, a line for each wrong detection and
                          each garment that was missed

A detection's garment is, at an IoU of 0.5 or more, the one of its class that COCO's matching gives it;
otherwise the one of its class that it overlaps most; otherwise, where classes come from the truth, the one of
any class that it overlaps most. A detection without a garment stays as it is. "-" is what cannot be known:
stored predictions hold the landmarks of the predicted class alone.
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet errors``."""
    parser = report_parser(DESCRIPTION)
    parser.add_argument("--oracle", action="store_true", help="AP with parts of the truth")
    return parser


def run(args: argparse.Namespace) -> None:
    """Print the analysis, and write it where ``--output`` asks for it.

    Raises:
        ValueError, FileNotFoundError: see :func:`load`.
    """
    truth, predictions = load(args.dataset, args.predictions, args.config_file)
    overlaps = BoxMatcher(truth, predictions)
    errors = find_errors(overlaps)
    report = {
        **subject(args, truth, predictions),
        "errors": error_report(errors, score_threshold=args.score_threshold),
    }
    if predictions.has_keypoints:
        report["landmark_error"] = landmark_error(overlaps)
    if args.oracle:
        report |= {"oracles": oracle_scores(overlaps), "matched": matched_summary(overlaps)}
    print(markdown(report))
    if args.output:
        write_report(args.output, "errors", report)
        write_errors(args.output, report["errors"], errors)
