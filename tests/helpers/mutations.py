"""Damage to files, drawn by a random generator: to bytes of any kind, and to what JSON means."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

_MARK = "@raw{}@"  # a string in JSON, in whose place a text comes that the json module would not write
_DEEP = 100_000
_TEXTS = ["NaN", "Infinity", "-Infinity", "1e400", "-0.0", "1e39", "0x10", "01", "'a'", '"\\ud800"']
_TEXTS += ["[" * depth + "]" * depth for depth in (40, 2_000, _DEEP)] + ['{"a":' * _DEEP + "1" + "}" * _DEEP]
_VALUES = [None, True, False, "", "text", "7", "über", [], {}, [[]], [None], {"a": 1}]
_NUMBERS = [0, -1, 1, 1.5, 2**31, 2**63, -(2**63) - 1, 10**400, 1e38, 3e9, -1e9, 1e-320]


def _pick(rng: np.random.Generator, values) -> Any:
    return values[int(rng.integers(len(values)))]  # numpy's own choice makes arrays of lists


def mutate_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut bytes, flip bits, put bytes in, leave bytes out, write them twice."""
    at, to = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    kind = _pick(rng, ("cut", "flip", "flip", "flip", "insert", "leave out", "twice", "zeros", "empty"))
    if kind == "flip":
        flipped = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 9)).tolist():
            flipped[place] ^= 1 << int(rng.integers(8))
        return bytes(flipped)
    return {
        "cut": content[:to],
        "insert": content[:at] + rng.bytes(int(rng.integers(1, 20))) + content[at:],
        "leave out": content[:at] + content[min(to, at + 100) :],
        "twice": content + content,
        "zeros": content[:at] + bytes(min(to - at, 4096)) + content[min(to, at + 4096) :],
        "empty": b"",
    }[kind]


def mutate_json(content: bytes, rng: np.random.Generator) -> bytes:
    """Change one to three places of a JSON document, or, once in four, its bytes or its encoding."""
    if rng.random() < 0.15:
        return mutate_bytes(content, rng)
    if rng.random() < 0.1:
        text = content.decode().replace("{", '{"ü": "Größe", ', 1)
        encoding = _pick(rng, ("utf-16", "utf-32", "utf-8-sig", "latin-1", "utf-16-be", "cp037"))
        return text.encode(encoding)
    document, raw = [json.loads(content)], []
    for _ in range(rng.integers(1, 4)):
        _change(document, raw, rng)
    text = json.dumps(document[0])
    for number, replacement in enumerate(raw):
        text = text.replace(f'"{_MARK.format(number)}"', replacement)
    return text.encode()


def _change(document: list, raw: list[str], rng: np.random.Generator) -> None:
    """Change a place of a document, which is the one item of a list; ``raw`` collects texts."""
    parent, key = _place(document, rng)
    change: Callable = _pick(
        rng, (_drop, _rename, _retype, _renumber, _renumber, _swap, _length, _twice, _raw)
    )
    change(document, parent, key, raw, rng)


def _place(document: list, rng: np.random.Generator) -> tuple[list | dict, Any]:
    """Draw a place by going down from the top, so that a few fields weigh as much as many numbers."""
    parent: list | dict = document
    key: Any = 0
    while isinstance(parent[key], list | dict) and parent[key] and rng.random() < 0.8:
        parent = parent[key]
        key = _pick(rng, list(parent)) if isinstance(parent, dict) else int(rng.integers(len(parent)))
    return parent, key


def _drop(document, parent, key, raw, rng):
    if parent is not document:
        del parent[key]


def _rename(document, parent, key, raw, rng):
    if isinstance(parent, dict):
        new = _pick(rng, (f"{key}x", key.upper(), "", "id", _pick(rng, list(parent))))
        parent[new] = parent.pop(key)


def _retype(document, parent, key, raw, rng):
    parent[key] = _pick(rng, [*_VALUES, [parent[key]], {"value": parent[key]}, str(parent[key])[:40]])


def _renumber(document, parent, key, raw, rng):
    parent[key] = _pick(rng, _NUMBERS)


def _swap(document, parent, key, raw, rng):
    other, place = _place(document, rng)
    first, second = json.dumps(parent[key]), json.dumps(other[place])  # copies, so that nothing holds itself
    parent[key] = json.loads(second)
    if place in other if isinstance(other, dict) else place < len(other):
        other[place] = json.loads(first)


def _length(document, parent, key, raw, rng):
    value = parent[key]
    if isinstance(value, list):
        lengths = (value[:-1], value[1:], value + value, value * 50, [*value, 0], value[: len(value) // 2])
        parent[key] = _pick(rng, lengths)


def _twice(document, parent, key, raw, rng):
    """A list's item again, or a name again in an object."""
    if isinstance(parent, list) and parent is not document:
        parent.append(json.loads(json.dumps(parent[key])))
    elif isinstance(parent[key], dict) and parent[key] and not raw:
        name = _pick(rng, list(parent[key]))
        text = json.dumps(parent[key])
        raw.append(f"{text[:-1]}, {json.dumps(name)}: {json.dumps(_pick(rng, _NUMBERS[:5]))}}}")
        parent[key] = _MARK.format(len(raw) - 1)


def _raw(document, parent, key, raw, rng):
    raw.append(_pick(rng, _TEXTS))
    parent[key] = _MARK.format(len(raw) - 1)
