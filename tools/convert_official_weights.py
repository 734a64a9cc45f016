#!/usr/bin/env python
"""Convert weights of the released KGDet to this project and back; the same as ``kgdet convert``."""

import sys

from kgdet_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
