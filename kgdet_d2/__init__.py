"""KGDet, Keypoint-Guided Fashion Detection (AAAI 2021), as a Detectron2 project.

Importing this package registers its meta-architectures, backbones and datasets with Detectron2. Where
Detectron2 is missing it can be imported all the same, so that ``kgdet install-detectron2`` can run.
"""

from importlib.util import find_spec
from warnings import catch_warnings, filterwarnings

from kgdet_d2.utils.command import DETECTRON2_MISSING
from kgdet_d2.utils.version import VERSION

if find_spec("detectron2") is not None:
    with catch_warnings():
        # Detectron2 and fvcore call it while they are imported; no user of this package can mend that.
        filterwarnings("ignore", "`torch.jit.* is deprecated", FutureWarning)
        from kgdet_d2 import data, modeling
        from kgdet_d2.config import add_kgdet_config, load_config
        from kgdet_d2.garments import Garments
        from kgdet_d2.predictor import FashionPredictor

__version__ = VERSION

__all__ = [
    "FashionPredictor",
    "Garments",
    "__version__",
    "add_kgdet_config",
    "data",
    "load_config",
    "modeling",
]


def __getattr__(name: str) -> object:
    """Say what is missing where a public name could not be imported (PEP 562)."""
    if name in __all__:
        raise ImportError(DETECTRON2_MISSING)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
