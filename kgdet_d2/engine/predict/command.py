"""The command ``kgdet predict``, and its run over photos in parts that are kept."""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from kgdet_d2.data.images import to_array
from kgdet_d2.engine.predict.outputs import (
    FORMATS,
    PHOTOS,
    Outcome,
    merge_parts,
    remove,
    write_part,
    write_pictures,
)
from kgdet_d2.engine.predict.sources import FilmReader, Source, dataset_sources, find_sources, stated_size
from kgdet_d2.predictor import FashionPredictor, PhotoMapper
from kgdet_d2.utils.command import at_least, command_parser
from kgdet_d2.utils.io import write_json

DESCRIPTION = """Find the garments of photos.

    kgdet predict photos/ more/*.jpg film.mp4 --weights model_final.pth --output output/found
    find photos -name '*.jpg' | kgdet predict --list - --weights model_final.pth --output output/found
    kgdet predict --dataset deepfashion2_val --weights model_final.pth --output output/found --resume

Inputs are photos, folders with all that is below them, patterns, and films, each picture of which counts. A
photo's name in what is written is its path below the folder that all inputs share.

    garments.parquet   a row a garment: photo, class, score, box, and its own landmarks as lists; their names,
                       by class, are in the metadata, "kgdet_schema"
    photos.parquet     a row a photo: its size, how many garments, or why it could not be read

and, by --formats,

    coco               coco_results.json and, what its ids mean, coco_images.json
    jsonl              garments.jsonl, a line a photo, landmarks by name
    pictures           pictures/<photo's name>.jpg, garments drawn
    crops              crops/<photo's name>/, a picture a garment

A photo that cannot be read is reported and the others go on; the exit status then is 1. Photos are done in
parts of --part-size. What was broken off, at any moment, goes on with --resume, does what is missing, and
ends with the same files.
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``kgdet predict``."""
    parser = command_parser(DESCRIPTION)
    add = parser.add_argument
    add("inputs", nargs="*", metavar="INPUT", help="photos, folders, patterns, films")
    add("--list", metavar="FILE", help="with an input a line; - for the standard input")
    add("--dataset", metavar="NAME", help="a registered one, in place of inputs")
    add("--weights", required=True, metavar="FILE")
    add("--output", required=True, type=Path, metavar="DIR")
    add("--config-file", metavar="YAML", help="of weights that do not say what model they are of")
    add("--device", help="cpu, cuda, ...; default: the GPU where there is one")
    add("--score-threshold", type=float, default=0.5, metavar="S", help="0..1; default 0.5")
    add("--formats", nargs="+", choices=FORMATS, default=[], help="beside the tables")
    add("--batch-size", type=at_least(1), default=8, metavar="N", help="photos; default 8")
    add("--part-size", type=at_least(1), default=200, metavar="N", help="photos; default 200")
    add("--workers", type=at_least(0), default=2, metavar="N", help="that read photos ahead; default 2")
    add("--resume", action="store_true", help="go on with what was broken off")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE overrides of the config")
    return parser


def run(args: argparse.Namespace) -> int:
    """Predict all photos; return 1 where one could not be read.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: inputs, weights or an output that cannot be used.
    """
    if args.dataset and (args.inputs or args.list):
        raise ValueError("--dataset: expected no other inputs beside it")
    sources = dataset_sources(args.dataset) if args.dataset else find_sources(args.inputs, args.list)
    predictor = FashionPredictor.from_checkpoint(
        args.weights, args.device, args.score_threshold, args.config_file, args.opts
    )
    job = Job(args.output, sources, predictor, tuple(args.formats), args.batch_size, args.part_size)
    job.begin(args.weights, resume=args.resume)
    job.predict(args.workers)
    return job.finish()


@dataclass
class Job:
    """The prediction of some photos into a folder, part by part.

    Attributes:
        output: the folder.
        sources: the photos.
        predictor: the model.
        formats: see :data:`FORMATS`.
        batch_size: photos that run together.
        part_size: photos whose results are written together.
    """

    output: Path
    sources: list[Source]
    predictor: FashionPredictor
    formats: tuple[str, ...]
    batch_size: int
    part_size: int

    @property
    def _parts(self) -> list[Path]:
        """The folders of all parts, done or not."""
        number = -(-len(self.sources) // self.part_size)
        return [self.output / "parts" / f"{index:06d}" for index in range(number)]

    @property
    def _state(self) -> Path:
        return self.output / "run.json"

    def begin(self, weights: str, *, resume: bool) -> None:
        """Make the output folder, or check that what is there is of the same run.

        Raises:
            FileExistsError: there is something, and it is not to be gone on with.
            ValueError: it is of another run, or of none.
        """
        settings = self._settings(weights)
        if not self.output.exists() or not any(self.output.iterdir()):
            write_json(self._state, settings)
            return
        if not resume:
            raise FileExistsError(f"--output: {self.output} is not empty; --resume goes on with its run")
        if not self._state.is_file():
            raise ValueError(f"--resume: {self.output} is of no run, it has no {self._state.name}")
        earlier = json.loads(self._state.read_text())
        differing = [name for name, value in settings.items() if earlier.get(name) != value]
        if differing:
            raise ValueError(f"--resume: {self.output} is of a run with other {', '.join(differing)}")
        for unfinished in self.output.glob("parts/*.tmp"):
            remove(unfinished)

    def _settings(self, weights: str) -> dict[str, Any]:
        """Return what decides the results."""
        cfg = self.predictor.cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = cfg.OUTPUT_DIR = ""
        photos = "\n".join(f"{source.path}\t{source.name}" for source in self.sources)
        return {
            "weights": hashlib.sha256(Path(weights).read_bytes()).hexdigest(),
            "config": hashlib.sha256(cfg.dump().encode()).hexdigest(),
            "photos": hashlib.sha256(photos.encode()).hexdigest(),
            "score_threshold": self.predictor.score_threshold,
            "formats": sorted(self.formats),
            "batch_size": self.batch_size,
            "part_size": self.part_size,
        }

    def predict(self, workers: int) -> None:
        """Predict the parts that are missing, with so many processes that read photos."""
        if (self.output / PHOTOS).is_file():
            return
        missing = [index for index, folder in enumerate(self._parts) if not folder.is_dir()]
        rows = {index: self._rows(index) for index in missing}
        batches = [batch for index in missing for batch in self._batches(rows[index])]
        dataset = _Photos(self.sources, self.predictor.mapper, keep=self._draws)
        loader = DataLoader(
            dataset, sampler=batches, batch_size=None, num_workers=workers, collate_fn=_as_it_is
        )
        total = len(self.sources)
        done = total - sum(map(len, rows.values()))
        with tqdm(total=total, initial=done, desc="predicting", unit="photo") as progress:
            outcomes: dict[int, Outcome] = {}
            waiting = iter(missing)
            part = next(waiting, None)
            for photos in loader:
                outcomes |= self._predict_batch(photos)
                progress.update(len(photos))
                if part is not None and len(outcomes) == len(rows[part]):
                    in_order = [outcomes[row] for row in rows[part]]
                    write_part(self._parts[part], in_order, self.predictor.schema, self.formats)
                    outcomes, part = {}, next(waiting, None)

    @property
    def _draws(self) -> bool:
        return not {"pictures", "crops"}.isdisjoint(self.formats)

    def _rows(self, part: int) -> range:
        return range(part * self.part_size, min((part + 1) * self.part_size, len(self.sources)))

    def _batches(self, rows: range) -> list[list[int]]:
        """Deal a part's photos into batches of similar shapes; a batch is padded to its largest photo."""
        by_shape = sorted(rows, key=lambda row: (_aspect(self.sources[row]), row))
        return [by_shape[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]

    def _predict_batch(self, photos: Sequence["_Read"]) -> dict[int, Outcome]:
        """Predict the photos that could be read; return the outcome of each row."""
        readable = [photo for photo in photos if not photo.error]
        found = self.predictor.predict_mapped([photo.mapped for photo in readable]) if readable else []
        outcomes = {photo.row: Outcome(self.sources[photo.row], None, photo.error) for photo in photos}
        for photo, garments in zip(readable, found, strict=True):
            outcome = outcomes[photo.row] = Outcome(self.sources[photo.row], garments)
            if photo.pixels is not None:
                write_pictures(self.output, outcome, photo.pixels, self.formats)
        return outcomes

    def finish(self) -> int:
        """Join the parts, print what was found; return 1 where a photo could not be read."""
        if not (self.output / PHOTOS).is_file():
            merge_parts(self._parts, self.output, self.predictor.schema, self.formats)
        if (self.output / "parts").is_dir():
            remove(self.output / "parts")
        return summarize(self.output)


def summarize(output: Path) -> int:
    """Print how many photos and garments there are, and what could not be read; return 1 for any."""
    photos = pq.read_table(output / PHOTOS, columns=["photo", "garments", "error"]).to_pylist()
    bad = [photo for photo in photos if photo["error"] is not None]
    garments = sum(photo["garments"] or 0 for photo in photos)
    print(f"{output}: {garments} garments on {len(photos) - len(bad)} photos")
    for photo in bad[:10]:
        print(f"not read: {photo['error']}", file=sys.stderr)
    if bad:
        print(f"{len(bad)} of {len(photos)} photos could not be read, see {output / PHOTOS}", file=sys.stderr)
    return 1 if bad else 0


# --- reading ahead ---


@dataclass
class _Read:
    """A photo as a worker read it.

    Attributes:
        row: of the sources.
        mapped: for the network.
        pixels: RGB, where pictures are written.
        error: why it could not be read.
    """

    row: int
    mapped: dict
    pixels: np.ndarray | None = None
    error: str = ""


class _Photos(Dataset):
    """Photos by batches of rows."""

    def __init__(self, sources: Sequence[Source], mapper: PhotoMapper, *, keep: bool):
        self.sources, self.mapper, self.keep = sources, mapper, keep
        self.films = FilmReader()

    def __getitem__(self, rows: list[int]) -> list[_Read]:
        return [self._read(row) for row in rows]

    def _read(self, row: int) -> _Read:
        source = self.sources[row]
        try:
            photo = source.path if source.frame is None else self.films.read(source.path, source.frame)
            pixels = to_array(photo, "RGB")
        except RuntimeError as error:
            return _Read(row, {}, error=str(error))
        return _Read(row, self.mapper(pixels), pixels if self.keep else None)


def _as_it_is(batch: list[_Read]) -> list[_Read]:
    return batch


def _aspect(source: Source) -> float:
    height, width = stated_size(source)
    return height / width if width else 0.0
