"""The command ``kgdet app``: its arguments, and what it prepares for the page."""

import argparse
import os
import signal
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

from PIL import EpsImagePlugin, Image

from kgdet_d2.engine.app.finder import GarmentFinder
from kgdet_d2.engine.predict.sources import find_sources
from kgdet_d2.figure_page import write_jpeg
from kgdet_d2.predictor import FashionPredictor
from kgdet_d2.synthetic import generate_photo
from kgdet_d2.utils.command import at_least, command_parser

DESCRIPTION = """Find the garments of photos in a browser.

    kgdet app --weights model_final.pth
    kgdet app --weights model_final.pth --examples photos/ --host 0.0.0.0 --port 8080

The page asks no host but this machine for anything. It is for browsers on this machine, unless --host says
otherwise. Ctrl-C ends it, and deletes what was uploaded.
"""
_LOWEST_SCORE = 0.05  # that the page's slider goes down to
_NUM_EXAMPLES = 5


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet app``."""
    parser = command_parser(DESCRIPTION)
    add = parser.add_argument
    add("--weights", required=True, metavar="FILE")
    add("--config-file", metavar="YAML", help="of weights that do not say what model they are of")
    add("--device", help="cpu, cuda, ...; default: the GPU where there is one")
    add("--score-threshold", type=float, default=0.5, metavar="S", help="0..1, at first; default 0.5")
    add("--examples", metavar="DIR", help=f"its first {_NUM_EXAMPLES} photos; default: drawings")
    add("--host", default="127.0.0.1", help="address to listen at, 0.0.0.0 for all; default 127.0.0.1")
    add("--port", type=at_least(1), default=7860, metavar="N", help="default 7860")
    add("--max-megabytes", type=at_least(1), default=20, metavar="N", help="of an uploaded file; default 20")
    add("--max-megapixels", type=at_least(1), default=50, metavar="N", help="of a photo; default 50")
    add("--time-limit", type=at_least(1), default=60, metavar="S", help="seconds for a photo; default 60")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE overrides of the config")
    return parser


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Raises:
        ImportError: Gradio is missing.
        FileNotFoundError, ValueError: weights, examples or a threshold that cannot be used.
        OSError: the port is taken.
    """
    if not 0 <= args.score_threshold <= 1:
        raise ValueError(f"--score-threshold: expected 0..1, got {args.score_threshold:g}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which deletes the folder, too
    with TemporaryDirectory(prefix="kgdet_app_") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        page_module = import_page()
        harden_pillow(args.max_megapixels)
        lowest = min(_LOWEST_SCORE, args.score_threshold)
        predictor = FashionPredictor.from_checkpoint(
            args.weights, args.device, lowest, args.config_file, args.opts
        )
        page = page_module.make_page(
            GarmentFinder(predictor, time_limit=args.time_limit),
            score_threshold=args.score_threshold,
            examples=_photos_of(args.examples) if args.examples else draw_photos(Path(folder)),
        )
        address = page_module.serve(page, host=args.host, port=args.port, max_megabytes=args.max_megabytes)
        print(f"{address} (Ctrl-C ends it)", flush=True)
        page.block_thread()


def import_page() -> ModuleType:
    """Import the part that needs Gradio.

    Raises:
        ImportError: Gradio is missing.
    """
    try:
        from kgdet_d2.engine.app import page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ImportError("gradio is missing: pip install 'kgdet_d2[app]'", name="gradio") from error
    return page


def harden_pillow(max_megapixels: int) -> None:
    """Have Pillow refuse larger photos before it decodes them, and start no Ghostscript for an EPS file."""
    Image.MAX_IMAGE_PIXELS = max_megapixels * 500_000  # it refuses twice as many, and warns from here on
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    EpsImagePlugin.gs_binary = False


def _photos_of(folder: str) -> list[Path]:
    """Return the first photos in and below a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    paths = [Path(source.path) for source in find_sources([folder], None) if source.frame is None]
    return paths[:_NUM_EXAMPLES]


def draw_photos(folder: Path) -> list[Path]:
    """Draw photos into a folder, for those who have none at hand."""
    paths = [folder / f"example_{index}.jpg" for index in range(_NUM_EXAMPLES)]
    for index, path in enumerate(paths):
        write_jpeg(path, generate_photo(index, split="validation", size=512).image)
    return paths
