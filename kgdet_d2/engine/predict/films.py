"""The pictures of films."""

import cv2
import numpy as np

FILM_SUFFIXES = frozenset({".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
_MISSING = 0.05  # of the pictures that a film says it has; some formats only estimate their number


def count_pictures(path: str) -> int:
    """Count the pictures of a film by reading it: what it says of itself is not always true.

    Of a film that cannot be read, or that breaks off, one more is counted; reading it tells what is wrong.
    """
    film, count = cv2.VideoCapture(path), 0
    try:
        while film.grab():
            count += 1
        broken = count < (1 - _MISSING) * film.get(cv2.CAP_PROP_FRAME_COUNT)
    finally:
        film.release()
    return count + 1 if broken or not count else count


class FilmReader:
    """Reads the pictures of films one after another; going back starts a film again."""

    def __init__(self) -> None:
        self._path, self._next = "", 0
        self._film = cv2.VideoCapture()

    def read(self, path: str, picture: int) -> np.ndarray:
        """Return a picture, uint8 (H, W, 3) in RGB.

        Args:
            path: of the film.
            picture: its index.

        Raises:
            RuntimeError: there is no such picture.
        """
        if path != self._path or picture < self._next:
            self._film, self._path, self._next = cv2.VideoCapture(path), path, 0
        while self._next < picture and self._film.grab():
            self._next += 1
        read, pixels = self._film.read() if self._next == picture else (False, None)
        self._next += 1
        if not read or pixels is None:
            stated = int(self._film.get(cv2.CAP_PROP_FRAME_COUNT))
            raise RuntimeError(f"{path}: cannot read picture {picture}; the film says that it has {stated}")
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
