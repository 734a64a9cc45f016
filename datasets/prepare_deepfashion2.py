"""Turn DeepFashion2's native tree into compact annotation files; the same as ``kgdet prepare deepfashion2``."""

import sys

from kgdet_d2 import cli


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the arguments are those of the process by default."""
    return cli.main(["prepare", "deepfashion2", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
