"""The folder of a prediction: what it is of, which of its parts are done, and the files of the whole."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from tqdm import tqdm

from kgdet_d2.engine.predict.outputs import PHOTOS, merge_parts, read_photos
from kgdet_d2.engine.predict.parts import Part
from kgdet_d2.engine.predict.sources import Source
from kgdet_d2.utils.catalog import schema_of_config
from kgdet_d2.utils.io import atomic_write, sha256, sha256_of_file, write_json

Files = Iterable[tuple[str, bytes]]  # by their paths below the output folder
# Predicts parts, in any order, and calls the function with the numbers of photos that have been predicted.
Engine = Callable[[Sequence[Part], Callable[[int], object]], Iterator[tuple[Part, Files]]]
STATE = "run.json"
_UNFINISHED = "*.[0-9]*.tmp"  # the names that atomic_write and _write_part give to what is not whole
_SHOWN = 10  # photos that could not be read


@dataclass(frozen=True)
class Settings:
    """What decides the results of a prediction.

    Attributes:
        cfg: of the model, with its weights.
        score_threshold: of the garments that are kept, 0..1.
        formats: what is written beside the tables.
        batch_size: photos that run together.
        part_size: photos whose results are written together.
    """

    cfg: CfgNode
    score_threshold: float
    formats: tuple[str, ...]
    batch_size: int
    part_size: int

    def fingerprint(self, sources: Iterable[Source]) -> dict[str, Any]:
        """Return what is the same for runs that end with the same files."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = cfg.OUTPUT_DIR = ""
        photos = (f"{source.path}\0{source.name}\0".encode(errors="surrogateescape") for source in sources)
        return {
            "weights": sha256_of_file(self.cfg.MODEL.WEIGHTS),
            "config": sha256([cfg.dump().encode()]),
            "photos": sha256(photos),
            "score_threshold": self.score_threshold,
            "formats": sorted(self.formats),
            "batch_size": self.batch_size,
            "part_size": self.part_size,
        }


class Job:
    """The prediction of some photos into a folder, part by part.

    Args:
        output: the folder.
        sources: the photos.
        settings: what decides the results.
    """

    def __init__(self, output: Path, sources: list[Source], settings: Settings):
        self.output, self.sources, self.settings = output, sources, settings
        starts = range(0, len(sources), settings.part_size)
        self.parts = [Part(first, sources[first : first + settings.part_size]) for first in starts]

    def begin(self, *, resume: bool) -> None:
        """Make the output folder, or check that what is there is of the same run.

        Raises:
            FileExistsError: there is something, and it is not to be gone on with.
            ValueError: it is of another run, or of none.
        """
        state, settings = self.output / STATE, self.settings.fingerprint(self.sources)
        there = list(self.output.iterdir()) if self.output.exists() else []
        if there and not resume:
            raise FileExistsError(f"--output: {self.output} is not empty; --resume goes on with its run")
        if state.is_file():
            earlier = json.loads(state.read_text())
            differing = [name for name, value in settings.items() if earlier.get(name) != value]
            if differing:
                raise ValueError(f"--resume: {self.output} is of a run with other {', '.join(differing)}")
        elif not all(path.match(f"{STATE}{_UNFINISHED[1:]}") for path in there):
            raise ValueError(f"--resume: {self.output} is of no run, it has no {STATE}")
        for unfinished in list(self.output.rglob(_UNFINISHED)):
            shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink()
        if not state.is_file():
            write_json(state, settings)

    def predict(self, engine: Engine, check: Callable[[], None]) -> None:
        """Predict the parts that are missing.

        Args:
            engine: predicts them.
            check: called again and again, to end the run by an exception.

        Raises:
            OSError: what was predicted cannot be written.
        """
        if self._is_whole:
            return
        missing = [part for part in self.parts if not (self.output / part.folder).is_dir()]
        done = len(self.sources) - sum(len(part.sources) for part in missing)
        with tqdm(total=len(self.sources), initial=done, desc="predicting", unit="photo") as progress:

            def on_photos(number: int) -> None:
                progress.update(number)
                check()

            for part, files in engine(missing, on_photos):
                with self._writing():
                    _write_part(self.output, part, files)

    def finish(self) -> int:
        """Join the parts, print what was found; return 1 where a photo could not be read.

        Raises:
            OSError: the files cannot be written.
        """
        if not self._is_whole:
            folders = [self.output / part.folder for part in self.parts]
            schema = schema_of_config(self.settings.cfg)
            with self._writing():
                merge_parts(folders, self.output, schema, self.settings.formats)
        if (self.output / "parts").is_dir():
            shutil.rmtree(self.output / "parts")
        return summarize(self.output)

    @property
    def _is_whole(self) -> bool:
        return (self.output / PHOTOS).is_file()  # which is written last

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # of reading none is left here, photos that cannot be read are results
            raise OSError(f"--output: cannot write to {self.output}: {error}; --resume goes on") from error


def _write_part(output: Path, part: Part, files: Files) -> None:
    """Write a part's files; the folder of its tables appears when all is there."""
    folder = output / part.folder
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    unfinished.mkdir(parents=True)
    for path, content in files:
        if path.startswith(part.folder):
            (unfinished / Path(path).name).write_bytes(content)
        else:
            with atomic_write(output / path) as file:
                file.write(content)
    unfinished.rename(folder)


def summarize(output: Path) -> int:
    """Print how many photos and garments there are, and what could not be read; return 1 for any."""
    photos = bad = garments = 0
    for photo in read_photos(output, ["garments", "error"]):
        photos += 1
        garments += photo["garments"] or 0
        if photo["error"] is not None:
            bad += 1
            if bad <= _SHOWN:
                print(f"not read: {' '.join(photo['error'].splitlines())}", file=sys.stderr)
    print(f"{output}: {garments} garments on {photos - bad} photos")
    if bad:
        print(f"{bad} of {photos} photos could not be read, see {output / PHOTOS}", file=sys.stderr)
    return 1 if bad else 0
