#!/usr/bin/env python
"""Train several systems alike, with several seeds each; the same as ``kgdet compare``."""

import sys

from kgdet_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
