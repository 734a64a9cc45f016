#!/usr/bin/env python
"""Evaluate stored predictions again, without the model; the same as ``kgdet evaluate``."""

import sys

from kgdet_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
