"""Schemas as YAML that a person reads and edits.

    name: mine
    sigma: 0.04                     # of landmarks that have none of their own
    classes:
      Shirt:
        landmarks: [collar_left, collar_right, cuff_left, cuff_right]
        skeleton: [[cuff_left, collar_left, collar_right, cuff_right]]
        flip: [[collar_left, collar_right], [cuff_left, cuff_right]]
        sigmas: {cuff_left: 0.05, cuff_right: 0.05}
        kinds: {cuff_left: sleeve_end_left, cuff_right: sleeve_end_right}

All but ``name``, ``classes`` and ``landmarks`` may be left out. ``skeleton`` has paths of landmarks that are
joined. ``flip`` has the pairs that change places in a mirrored image, or is ``none`` where no landmark does;
without it they follow from the names. ``flip: none`` beside ``classes`` is for all of them. ``kinds`` names
landmarks that are the same, whatever their class; others are by their own name. ``sigmas`` may be a number or
a list, too. ``slots`` beside ``classes``, a list of all names of landmarks, gives those of one name one place
in the network's output, whatever their class; without it each class has places of its own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import yaml

from kgdet_d2.schema.keypoint_schema import KeypointSchema
from kgdet_d2.schema.sides import Edge, certain_pairs

DEFAULT_SIGMA = 0.04  # about the mean of DeepFashion2's 294

_NO_FLIP = "none"
_FIELDS = {"name", "sigma", "flip", "slots", "classes"}
_CLASS_FIELDS = {"landmarks", "skeleton", "flip", "sigmas", "kinds"}

# --- reading ---


def load_schema(path: str | Path) -> KeypointSchema:
    """Read a schema's file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: names the file, and the class and landmark where something is wrong with one.
    """
    text = Path(path).read_bytes()
    try:
        return schema_from_description(yaml.load(text, yaml.CSafeLoader))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not a usable schema: {' '.join(str(error).split())}") from error


def schema_from_description(description: object) -> KeypointSchema:
    """Make a schema of what its YAML holds.

    Raises:
        ValueError: names the field, and the class and landmark where something is wrong with one.
    """
    content = _mapping("schema", description, _FIELDS, required=("name", "classes"))
    classes = _mapping("classes", content["classes"])
    if not classes:
        raise ValueError("classes: expected at least one, got none")
    parts = [_class_part(name, classes[name], content) for name in classes]
    names = tuple(part["names"] for part in parts)
    slots = _slots(content.get("slots"), names)
    return KeypointSchema(
        name=_text("name", content["name"]),
        class_names=tuple(_text("classes", name) for name in classes),
        keypoint_names=names,
        slots=slots,
        sigmas=_slot_sigmas(slots, [part["sigmas"] for part in parts], tuple(classes), names),
        skeleton=tuple(part["skeleton"] for part in parts),
        flip_pairs=tuple(part["flip"] for part in parts),
        kind_names=tuple(part["kinds"] for part in parts),
    )


def _class_part(name: object, description: object, content: Mapping) -> dict[str, Any]:
    """Read a class: its names, sigmas, skeleton, pairs and kinds."""
    where = f"class {name!r}"
    part = _mapping(where, description, _CLASS_FIELDS, required=("landmarks",))
    names = tuple(
        _text(f"{where}: landmarks", landmark) for landmark in _list(where, "landmarks", part["landmarks"])
    )
    if not names or len(set(names)) < len(names):
        twice = [landmark for number, landmark in enumerate(names) if landmark in names[:number]]
        raise ValueError(f"{where}: landmarks: expected names, each once, got {twice or 'none'}")
    paths = [
        _indices(where, "skeleton", path, names) for path in _list(where, "skeleton", part.get("skeleton"))
    ]
    kinds = _mapping(f"{where}: kinds", part.get("kinds") or {}, set(names))
    return {
        "names": names,
        "sigmas": _sigmas(where, part.get("sigmas"), names, content.get("sigma", DEFAULT_SIGMA)),
        "skeleton": tuple(edge for path in paths for edge in pairwise(path)),
        "flip": _flip(where, part.get("flip", content.get("flip")), names),
        "kinds": tuple(_text(f"{where}: kinds", kinds.get(landmark, landmark)) for landmark in names),
    }


def _flip(where: str, value: object, names: tuple[str, ...]) -> tuple[Edge, ...] | None:
    """Return the pairs of a class; by its names where the file has none."""
    if value is None:
        return certain_pairs(names)
    if value == _NO_FLIP:
        return ()
    pairs = [_indices(where, "flip", pair, names) for pair in _list(where, "flip", value)]
    for pair in pairs:
        if len(pair) != 2:
            shown = [names[index] for index in pair]
            raise ValueError(f"{where}: flip: expected pairs of landmarks, or {_NO_FLIP}, got {shown}")
    return tuple((a, b) for a, b in pairs)


def _sigmas(where: str, value: object, names: tuple[str, ...], default: object) -> tuple[float, ...]:
    """Return a class's sigmas, in the order of its landmarks."""
    if value is None:
        value = {}
    if isinstance(value, int | float):
        value = [value] * len(names)
    if isinstance(value, list):
        if len(value) != len(names):
            raise ValueError(f"{where}: sigmas: expected {len(names)} numbers, got {len(value)}")
        value = dict(zip(names, value, strict=True))
    by_name = _mapping(f"{where}: sigmas", value, set(names))
    return tuple(_sigma(f"{where}: sigma of {name!r}", by_name.get(name, default)) for name in names)


def _sigma(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf:
        raise ValueError(f"{where}: expected a number above 0, got {value!r}")
    return float(value)


def _slots(order: object, names: tuple[tuple[str, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Return each class's slots: consecutive ones, or those of the names in ``order``."""
    if order is None:
        starts = [sum(map(len, names[:index])) for index in range(len(names))]
        return tuple(tuple(range(start, start + len(row))) for start, row in zip(starts, names, strict=True))
    places = [_text("slots", name) for name in _list("schema", "slots", order)]
    used = {name for row in names for name in row}
    if len(set(places)) < len(places) or set(places) != used:
        odd = sorted(set(places) ^ used) or places
        raise ValueError(f"slots: expected the name of every landmark once, got a difference in {odd}")
    return tuple(tuple(places.index(name) for name in row) for row in names)


def _slot_sigmas(
    slots: Sequence[Sequence[int]],
    sigmas: Sequence[Sequence[float]],
    classes: Sequence[object],
    names: Sequence[Sequence[str]],
) -> tuple[float, ...]:
    """Return the sigma of each slot, on which the classes that share it must agree."""
    of_slot: dict[int, float] = {}
    for class_name, *rows in zip(classes, slots, sigmas, names, strict=True):
        for slot, sigma, name in zip(*rows, strict=True):
            if of_slot.setdefault(slot, sigma) != sigma:
                raise ValueError(
                    f"class {class_name!r}: sigma of {name!r}: expected {of_slot[slot]}, as another class "
                    f"that shares its slot has it, got {sigma}"
                )
    return tuple(of_slot[slot] for slot in sorted(of_slot))


def _mapping(
    where: str, value: object, allowed: set[str] | None = None, required: Sequence[str] = ()
) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected names with values, got {value!r}")
    missing = [name for name in required if name not in value]
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} is missing")
    unknown = [key for key in value if allowed is not None and str(key) not in allowed]
    if unknown:
        raise ValueError(f"{where}: expected some of {sorted(allowed or ())}, got {unknown}")
    return value


def _list(where: str, field: str, value: object) -> list:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{where}: {field}: expected a list, got {value!r}")
    return value


def _indices(where: str, field: str, path: object, names: tuple[str, ...]) -> list[int]:
    """Return the indices of the landmarks of a path."""
    landmarks = [str(name) for name in _list(where, field, path)]
    unknown = [name for name in landmarks if name not in names]
    if unknown or len(landmarks) < 2:
        expected = "two or more of its landmarks"
        raise ValueError(f"{where}: {field}: expected {expected}, got {unknown or landmarks}")
    return [names.index(name) for name in landmarks]


def _text(where: str, value: object) -> str:
    # YAML takes no, on and 1.5 for a truth value and a number; a whole number is a name as it stands.
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(
            f"{where}: expected a name, in quotes where it looks like another value, got {value!r}"
        )
    return str(value)


# --- writing ---


def schema_to_yaml(schema: KeypointSchema) -> str:
    """Return a schema as the text of a file, which :func:`load_schema` reads as the same.

    Classes whose mirror images are not known are named in comments at its top.
    """
    common = Counter(schema.sigmas).most_common(1)[0][0]
    content: dict[str, Any] = {"name": schema.name, "sigma": common}
    if sum(map(len, schema.slots)) > schema.num_keypoints:
        by_slot = {
            slot: name
            for slots, names in zip(schema.slots, schema.keypoint_names, strict=True)
            for slot, name in zip(slots, names, strict=True)
        }
        content["slots"] = [by_slot[slot] for slot in range(schema.num_keypoints)]
    content["classes"] = {
        name: _class_description(schema, index, common) for index, name in enumerate(schema.class_names)
    }
    comments = [
        f"# {name}: {reason}; add flip: [[a, b], ...], the landmarks that change places in a mirrored photo, "
        "or flip: none\n"
        for name, reason in schema.unpaired_classes.items()
    ]
    text = yaml.dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return "".join(comments) + text


def _class_description(schema: KeypointSchema, index: int, common_sigma: float) -> dict[str, Any]:
    names, pairs = schema.keypoint_names[index], schema.flip_pairs[index]
    part: dict[str, Any] = {"landmarks": list(names)}
    if schema.skeleton[index]:
        part["skeleton"] = [[names[landmark] for landmark in path] for path in _paths(schema.skeleton[index])]
    if pairs is not None:
        part["flip"] = [[names[a], names[b]] for a, b in pairs] or _NO_FLIP
    sigmas = [schema.sigmas[slot] for slot in schema.slots[index]]
    if set(sigmas) != {common_sigma}:
        part["sigmas"] = sigmas
    kinds = {name: kind for name, kind in zip(names, schema.kind_names[index], strict=True) if kind != name}
    return part | ({"kinds": kinds} if kinds else {})


def _paths(edges: Sequence[Edge]) -> list[list[int]]:
    """Join edges, each of which begins where the one before it ends, to paths."""
    paths: list[list[int]] = []
    for start, end in edges:
        if paths and paths[-1][-1] == start:
            paths[-1].append(end)
        else:
            paths.append([start, end])
    return paths
