"""The command ``kgdet demo``: garments drawn on photos, on a film or on a webcam's pictures."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from kgdet_d2.engine.predict.sources import find_sources
from kgdet_d2.figure_page import write_jpeg
from kgdet_d2.predictor import FashionPredictor
from kgdet_d2.utils.command import command_parser

DESCRIPTION = """Draw the garments of photos, of a film or of a webcam's pictures, as Detectron2's demo does.

    demo.py --input photos/*.jpg --output drawn --weights model_final.pth
    demo.py --video-input film.mp4 --output drawn.mp4 --weights model_final.pth
    demo.py --config-file kgdet_R50.yaml --input photo.jpg --output drawn.jpg --opts MODEL.WEIGHTS model.pth

Without --output the pictures are shown in a window, where OpenCV has windows (opencv-python; the headless
package has none); Esc ends it. "kgdet predict" writes tables, too, and goes on where it was broken off.
"""
_WINDOW = "kgdet"
_ESCAPE = 27
_PICTURES = frozenset({".jpg", ".jpeg"})  # suffixes of an --output that is a file


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet demo``: that of Detectron2's demo, and --weights."""
    parser = command_parser(DESCRIPTION)
    inputs = parser.add_mutually_exclusive_group(required=True)
    inputs.add_argument("--input", nargs="+", metavar="PHOTO", help="photos, folders, patterns")
    inputs.add_argument("--video-input", metavar="FILE", help="a film")
    inputs.add_argument("--webcam", action="store_true", help="the first camera's pictures")
    parser.add_argument(
        "--output", type=Path, metavar="PATH", help="a folder, or one picture's or film's file"
    )
    parser.add_argument("--weights", metavar="FILE", help="of the model; or --opts MODEL.WEIGHTS FILE")
    parser.add_argument("--config-file", metavar="YAML", help="of weights that do not say what they are of")
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, metavar="S", help="0..1; default 0.5"
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE overrides of the config"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Draw what is asked for.

    Raises:
        FileNotFoundError, ValueError: inputs, weights or arguments that cannot be used.
        RuntimeError: a photo, film or camera cannot be read, or there is no window to show it in.
    """
    if args.webcam and args.output:
        raise ValueError("--webcam: expected no --output beside it; its pictures are shown in a window")
    if args.output is None:
        _check_windows()
    predictor = FashionPredictor.from_checkpoint(
        args.weights,
        score_threshold=args.confidence_threshold,
        config=args.config_file,
        opts=args.opts,
    )
    if args.input:
        draw_photos(predictor, args.input, args.output)
    elif args.output is None:
        pictures = _frames(
            cv2.VideoCapture(0 if args.webcam else args.video_input), args.video_input or "webcam"
        )
        _show(draw(predictor, picture) for picture in pictures)
    else:
        write_film(predictor, args.video_input, args.output)


def draw(predictor: FashionPredictor, picture: np.ndarray) -> np.ndarray:
    """Return a picture with its garments, BGR; both are uint8 (H, W, 3), the given one RGB."""
    return np.ascontiguousarray(predictor(picture).draw(picture)[:, :, ::-1])


def draw_photos(predictor: FashionPredictor, inputs: list[str], output: Path | None) -> None:
    """Draw photos into a folder, by their paths below the inputs' own, or one into a file; or show them.

    Raises:
        FileNotFoundError, RuntimeError: there is no such photo, or it cannot be read.
        ValueError: one file is given for several photos.
    """
    photos = find_sources(inputs, None)
    one_file = output is not None and output.suffix.lower() in _PICTURES and not output.is_dir()
    if one_file and len(photos) > 1:
        raise ValueError(f"--output: expected a folder for {len(photos)} photos, got the file {output}")
    drawn = (draw(predictor, predictor.mapper.read(photo.path)) for photo in photos)
    if output is None:
        _show(drawn, wait=0)
        return
    for photo, picture in zip(tqdm(photos, desc="drawing", unit="photo"), drawn, strict=True):
        # The suffix stays in the name: a.png and a.jpg of one folder are two photos.
        name = photo.name if photo.name.endswith(".jpg") else f"{photo.name}.jpg"
        write_jpeg(output if one_file else output / name, picture)


def write_film(predictor: FashionPredictor, path: str, output: Path) -> None:
    """Write a film with the garments of each picture; into a folder under its own name, as .mp4.

    Raises:
        RuntimeError: the film cannot be read, or OpenCV cannot write one.
    """
    target = output if output.suffix else output / Path(path).with_suffix(".mp4").name
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.stem}.unfinished{target.suffix}")
    film = cv2.VideoCapture(path)
    rate, total = film.get(cv2.CAP_PROP_FPS), int(film.get(cv2.CAP_PROP_FRAME_COUNT))
    writer = cv2.VideoWriter()
    try:
        for picture in tqdm(_frames(film, path), total=max(total, 0), desc="drawing", unit="picture"):
            drawn = draw(predictor, picture)
            if not writer.isOpened():
                size = drawn.shape[1::-1]
                writer.open(str(unfinished), cv2.VideoWriter.fourcc(*"mp4v"), rate or 25.0, size)
                if not writer.isOpened():
                    raise RuntimeError(f"{target}: OpenCV cannot write a film of this kind; expected .mp4")
            writer.write(drawn)
        writer.release()
        unfinished.replace(target)
    finally:
        writer.release()
        unfinished.unlink(missing_ok=True)


def _frames(film: cv2.VideoCapture, name: str) -> Iterator[np.ndarray]:
    """Generate a film's or a camera's pictures, RGB.

    Raises:
        RuntimeError: there is none.
    """
    read, picture = film.read()
    if not read:
        raise RuntimeError(f"{name}: expected a film or a camera that OpenCV reads, found no picture in it")
    while read:
        yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        read, picture = film.read()
    film.release()


def _check_windows() -> None:
    """Raise RuntimeError where OpenCV has no windows."""
    try:
        cv2.namedWindow(_WINDOW)
    except cv2.error as error:
        raise RuntimeError(
            "--output: expected a file or a folder, since this OpenCV has no windows (the headless package)"
        ) from error


def _show(pictures: Iterator[np.ndarray], *, wait: int = 1) -> None:
    """Show pictures in the window, each for so many milliseconds or, with 0, until a key; Esc ends it."""
    for picture in pictures:
        cv2.imshow(_WINDOW, picture)
        if cv2.waitKey(wait) == _ESCAPE:
            break
    cv2.destroyAllWindows()
