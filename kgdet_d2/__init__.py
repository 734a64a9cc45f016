"""KGDet, Keypoint-Guided Fashion Detection (AAAI 2021), as a Detectron2 project.

As in Detectron2, importing ``kgdet_d2.modeling`` registers the meta-architectures and backbones, importing
``kgdet_d2.data`` the datasets. The first use of ``kgdet_d2.add_kgdet_config`` or ``kgdet_d2.load_config``
imports both. Importing the package alone needs neither PyTorch nor Detectron2: ``kgdet install-detectron2``
runs before they are there.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from kgdet_d2.utils.command import DETECTRON2_MISSING

try:
    __version__ = version("kgdet_d2")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

__all__ = ["__version__", "add_kgdet_config", "load_config"]


def __getattr__(name: str) -> object:
    """Import the public functions, and what a config names, when they are first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import_module("kgdet_d2.data")
        import_module("kgdet_d2.modeling")
        return getattr(import_module("kgdet_d2.config"), name)
    except ModuleNotFoundError as error:
        if error.name != "detectron2":
            raise
        raise ImportError(DETECTRON2_MISSING) from error
