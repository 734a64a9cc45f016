#!/usr/bin/env python
"""Install Detectron2; the same as ``kgdet install-detectron2``, also where the package cannot be imported."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    package = Path(__file__).resolve().parents[1] / "kgdet_d2"
    runpy.run_path(str(package / "install_detectron2.py"), run_name="__main__")
