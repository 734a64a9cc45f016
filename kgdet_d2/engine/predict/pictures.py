"""The pictures of predicted photos: garments drawn, garments cut out, pages of photos side by side."""

import re
from collections.abc import Collection, Iterable, Iterator

import numpy as np

from kgdet_d2.engine.predict.outputs import Outcome
from kgdet_d2.figure_page import encode_jpeg, justified, to_height
from kgdet_d2.garments import Garments

Predicted = tuple[Outcome, np.ndarray | None]  # what became of a photo, and its pixels, RGB uint8 (H, W, 3)
PICTURES = frozenset({"pictures", "crops", "figures"})  # the formats that are made here
PAGE_PHOTOS = 25  # on a page of figures
PAGE_ROW = 400  # pixels; the height of a page's rows, about


def picture_files(
    predicted: Iterable[Predicted], formats: Collection[str], first: int
) -> Iterator[tuple[str, bytes]]:
    """Generate pictures, by their paths below the output folder; a page of them is in memory.

    Args:
        predicted: a part's photos.
        formats: some of :data:`PICTURES`.
        first: the number of photos in the parts before.
    """
    page: dict[int, np.ndarray] = {}  # number of the photo -> its drawing
    for number, ((source, garments, _), photo) in enumerate(predicted, start=first):
        if garments is None or photo is None:
            continue
        if "crops" in formats:
            yield from _crops(f"crops/{source.name}", garments, photo)
        if "pictures" in formats or "figures" in formats:
            drawn = np.ascontiguousarray(garments.draw(photo)[:, :, ::-1])
        if "pictures" in formats:
            yield f"pictures/{source.name}.jpg", encode_jpeg(drawn)
        if "figures" in formats:
            page[number] = to_height(drawn, PAGE_ROW)
        if len(page) == PAGE_PHOTOS:
            yield _page_file(page)
            page = {}
    if page:
        yield _page_file(page)


def _page_file(page: dict[int, np.ndarray]) -> tuple[str, bytes]:
    return f"figures/{min(page):06d}.jpg", encode_jpeg(justified(list(page.values()), PAGE_ROW))


def _crops(folder: str, garments: Garments, photo: np.ndarray) -> Iterator[tuple[str, bytes]]:
    for row, (name, box) in enumerate(zip(garments.names, garments.boxes, strict=True)):
        x1, y1 = np.floor(box[:2]).astype(int).clip(min=0)
        x2, y2 = np.ceil(box[2:]).astype(int)
        crop = photo[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1), ::-1]
        if crop.size:
            file = f"{row:02d}_{re.sub(r'[^a-z0-9]+', '_', name.lower())}.jpg"
            yield f"{folder}/{file}", encode_jpeg(np.ascontiguousarray(crop))
