"""The prediction of parts: some photos each, predicted in batches and made into files."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from kgdet_d2.engine.predict.outputs import Outcome, part_tables
from kgdet_d2.engine.predict.pictures import PICTURES, Predicted, picture_files
from kgdet_d2.engine.predict.reading import PhotoReader, ReadPhoto, read_ahead
from kgdet_d2.engine.predict.sources import Source
from kgdet_d2.garments import Garments
from kgdet_d2.predictor import DEALT_BATCHES, FashionPredictor

FORMATS = ("coco", "jsonl", "pictures", "crops", "figures")  # by choice, beside the tables


class Part(NamedTuple):
    """Photos whose results are written together.

    Attributes:
        first: how many photos are in the parts before.
        sources: the photos.
    """

    first: int
    sources: list[Source]

    @property
    def folder(self) -> str:
        """The folder of its tables, below the output."""
        return f"parts/{self.first:08d}"


@dataclass(frozen=True)
class PartPredictor:
    """Predicts parts, on one device.

    Attributes:
        predictor: the model.
        formats: what is written beside the tables.
        batch_size: photos that run together.
        workers: threads that read photos ahead.
    """

    predictor: FashionPredictor
    formats: Collection[str]
    batch_size: int
    workers: int

    def __call__(
        self, parts: Iterable[Part], on_photos: Callable[[int], object] = lambda number: None
    ) -> Iterator[tuple[Part, Iterator[tuple[str, bytes]]]]:
        """Generate each part, with its files by their paths below the output folder; its tables come last.

        Args:
            parts: the files of one are to be taken before the next one.
            on_photos: called with the number of photos that have been predicted since.
        """
        parts = list(parts)
        sources = (source for part in parts for source in part.sources)
        reader = PhotoReader(self.predictor.mapper, keep=not PICTURES.isdisjoint(self.formats))
        photos = read_ahead(reader, sources, workers=self.workers, ahead=2 * self.batch_size)
        with closing(photos):
            for part in parts:
                yield part, self._files(part, self._predict(islice(photos, len(part.sources)), on_photos))

    def _files(self, part: Part, predicted: Iterator[Predicted]) -> Iterator[tuple[str, bytes]]:
        outcomes: list[Outcome] = []

        def noted() -> Iterator[Predicted]:
            for outcome, photo in predicted:
                outcomes.append(outcome)
                yield outcome, photo

        yield from picture_files(noted(), self.formats, part.first)
        for name, content in part_tables(outcomes, self.predictor.schema, self.formats):
            yield f"{part.folder}/{name}", content

    def _predict(
        self, photos: Iterator[ReadPhoto], on_photos: Callable[[int], object]
    ) -> Iterator[Predicted]:
        """Predict photos in batches, and generate what became of them in their order."""
        while some := list(islice(photos, DEALT_BATCHES * self.batch_size)):
            readable = [photo for photo in some if not photo.error]
            on_photos(len(some) - len(readable))
            found: dict[Source, Garments] = {}
            for rows in self.predictor.batches([photo.mapped for photo in readable], self.batch_size):
                garments = self.predictor.predict_mapped([readable[row].mapped for row in rows])
                found.update(zip([readable[row].source for row in rows], garments, strict=True))
                on_photos(len(rows))
            for photo in some:
                yield Outcome(photo.source, found.get(photo.source), photo.error), photo.pixels
