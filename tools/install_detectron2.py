#!/usr/bin/env python
"""Install Detectron2; the same as ``kgdet install-detectron2``, also before this package is installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kgdet_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["install-detectron2", *sys.argv[1:]]))
