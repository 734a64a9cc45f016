#!/usr/bin/env python
"""Convert weights of the released KGDet into a checkpoint of this project, or back; the same as ``kgdet convert``."""

import sys

from kgdet_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
