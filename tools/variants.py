"""The option ``--variant`` of benchmarks that time one config under several settings."""

import argparse


def add_variants(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """As ``variants``, a list of lists: a name, then KEY VALUE overrides."""
    parser.add_argument(
        "--variant",
        dest="variants",
        required=required,
        action="append",
        nargs="+",
        default=[],
        metavar=("NAME", "KEY VALUE"),
        help="give it several times",
    )
