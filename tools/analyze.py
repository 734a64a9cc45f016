#!/usr/bin/env python
"""Count a model's parameters and multiply-adds; the same as ``kgdet analyze``."""

import sys

from kgdet_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["analyze", *sys.argv[1:]]))
