"""Turn FLD's text lists into compact annotation files; the same as ``kgdet prepare fld``."""

import sys

from kgdet_d2 import cli


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the arguments are those of the process by default."""
    return cli.main(["prepare", "fld", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
