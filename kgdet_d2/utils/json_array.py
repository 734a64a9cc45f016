"""JSON arrays that are read item by item, so that memory does not grow with the file."""

import json
import re
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any

_CHUNK = 2**20  # characters that are read at a time
_LONGEST = 2**26  # characters of an item
_BEGIN = re.compile(r"\s*\[\s*(\])?")
_SPACE = re.compile(r"\s*")
_decode = json.JSONDecoder().raw_decode


def read_json_array(path: str | Path) -> Iterator[Any]:
    """Generate the items of a file that holds one JSON array; an item and a megabyte are in memory.

    Args:
        path: the file, in UTF-8. Items are objects, strings or arrays of up to 64 MB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file: it holds something else, or ends before the array does.
    """
    # A byte that is not UTF-8 is no JSON either, but in strings; "replace" leaves it to the decoder.
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        text = file.read(_CHUNK)
        begin = _BEGIN.match(text)
        if not begin:
            raise ValueError(f"{path}: expected a list, [...] in JSON, got {text[:30]!r}")
        at, last, number = begin.end(), bool(begin[1]), 0
        while not last:
            try:
                item, last, following = _next_item(text, at)
            except (JSONDecodeError, RecursionError) as error:
                more = file.read(max(_CHUNK, len(text) - at)) if len(text) - at < _LONGEST else ""
                if not more:
                    reason = getattr(error, "msg", error)  # without its place in this piece of the file
                    raise ValueError(f"{path}: [{number}]: not JSON, or cut off: {reason}") from error
                text, at = text[at:] + more, 0  # the item may go on there
                continue
            yield item
            at, number = following, number + 1
        rest = (text[at:] + file.read(_CHUNK)).strip()
        if rest:
            raise ValueError(f"{path}: expected nothing after the list, got {rest[:30]!r}")


def _next_item(text: str, at: int) -> tuple[Any, bool, int]:
    """Return the item that begins at ``at``, whether it is the last one, and where the next one begins.

    Raises:
        JSONDecodeError: it is not JSON, or the text ends before the comma or bracket behind it.
    """
    item, end = _decode(text, _SPACE.match(text, at).end())  # type: ignore[union-attr]  # matches anywhere
    end = _SPACE.match(text, end).end()  # type: ignore[union-attr]
    if text[end : end + 1] not in {",", "]"}:
        raise JSONDecodeError("Expecting ',' delimiter", text, end)
    return item, text[end] == "]", end + 1
