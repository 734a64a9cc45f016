#!/usr/bin/env python
"""Look at a registered dataset before training on it; the same as ``kgdet check``."""

import sys

from kgdet_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["check", *sys.argv[1:]]))
