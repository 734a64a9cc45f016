#!/usr/bin/env python
"""Train systems alike with several seeds, and put them into one table; the same as ``kgdet compare``."""

import sys

from kgdet_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
