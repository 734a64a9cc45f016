"""Photos that threads read ahead, for a model that predicts them."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from threading import local

import numpy as np

from kgdet_d2.engine.predict.file_systems import is_uri, let_photos_be_read_from
from kgdet_d2.engine.predict.films import FilmReader
from kgdet_d2.engine.predict.sources import Source, as_text
from kgdet_d2.predictor import PhotoMapper


@dataclass(frozen=True)
class ReadPhoto:
    """A photo as it was read.

    Attributes:
        source: the photo.
        mapped: for the network; empty where the photo could not be read.
        pixels: uint8 (H, W, 3) in RGB, where pictures are wanted.
        error: why it could not be read, else "".
    """

    source: Source
    mapped: dict
    pixels: np.ndarray | None = None
    error: str = ""


class PhotoReader:
    """Reads photos; threads may share one.

    Args:
        mapper: what makes photos into the network's input.
        keep: whether the photos' own pixels are kept, too.
    """

    def __init__(self, mapper: PhotoMapper, *, keep: bool):
        self._mapper, self._keep = mapper, keep
        self._of_thread = local()

    def __call__(self, source: Source) -> ReadPhoto:
        """Read a photo, or tell why it cannot be read."""
        try:
            pixels = self._mapper.read(self._open(source))
        except RuntimeError as error:
            return ReadPhoto(source, {}, error=as_text(str(error)))
        return ReadPhoto(source, self._mapper(pixels), pixels if self._keep else None)

    def _open(self, source: Source) -> str | np.ndarray:
        if source.frame is not None:
            if not hasattr(self._of_thread, "films"):
                self._of_thread.films = FilmReader()
            return self._of_thread.films.read(source.path, source.frame)
        if is_uri(source.path):
            let_photos_be_read_from(source.path)
        return source.path


def read_ahead(
    read: Callable[[Source], ReadPhoto], sources: Iterable[Source], *, workers: int, ahead: int
) -> Generator[ReadPhoto, None, None]:
    """Read photos in threads, and generate them in their order.

    Decoding and scaling leave Python's lock to others, so that threads do as much as processes would, and
    none is left behind when this process is killed.

    Args:
        read: reads one.
        sources: the photos.
        workers: threads.
        ahead: photos that are read, at most, before they are taken.
    """
    sources = iter(sources)
    with ThreadPoolExecutor(workers) as pool:
        coming = deque(pool.submit(read, source) for source in islice(sources, ahead))
        try:
            while coming:
                photo = coming.popleft().result()
                coming.extend(pool.submit(read, source) for source in islice(sources, 1))
                yield photo
        finally:
            pool.shutdown(cancel_futures=True)
