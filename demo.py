#!/usr/bin/env python
"""Draw the garments of photos, a film or a webcam by the arguments of Detectron2's demo; as "kgdet demo"."""

import sys

from kgdet_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
