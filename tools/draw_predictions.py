#!/usr/bin/env python
"""Draw what a model predicts beside the ground truth; the same as ``kgdet draw``."""

import sys

from kgdet_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["draw", *sys.argv[1:]]))
