"""Weights of one schema for a model of another: classes and landmarks of the same name keep theirs.

Layers that predict or read classes or landmarks have some rows, or columns, for each of them. What both
schemas have is copied, the rest stays as the new model has it.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from tabulate import tabulate
from torch import Tensor

from kgdet_d2.schema import KeypointSchema
from kgdet_d2.schema.sides import words_of

_NONE = -1  # in place of an index: the source has no such thing


class _Layout(NamedTuple):
    """Where a weight has its classes or landmarks.

    Attributes:
        axis: of the weight.
        unit: "classes", "landmarks" or "kinds".
        size: consecutive rows of each.
        background: a row of the background follows those of all classes.
    """

    axis: int
    unit: str
    size: int = 1
    background: bool = False


# A part of the weight's name -> its layout. An anchor's classes follow the other anchor's.
_LAYOUTS = {
    r"stages\.\d+\.(cls_score|classes\.output)\.": _Layout(0, "classes"),
    r"stages\.\d+\.(keypoint_offsets|keypoints\.output)\.": _Layout(0, "landmarks", 2),
    r"encode_points\.weight": _Layout(1, "landmarks", 2),
    r"encode_points\.visibility\.": _Layout(0, "landmarks"),
    r"refiner\.(heat|kind_embedding)\.": _Layout(0, "kinds"),
    r"refiner\.class_embedding\.": _Layout(0, "classes"),
    r"head\.cls_score\.": _Layout(0, "classes"),
    r"box_predictor\.cls_score\.": _Layout(0, "classes", background=True),
    r"box_predictor\.bbox_pred\.": _Layout(0, "classes", 4),
    r"mask_head\.predictor\.": _Layout(0, "classes"),
    r"keypoint_head\.score_lowres\.weight": _Layout(1, "landmarks"),
    r"keypoint_head\.score_lowres\.bias": _Layout(0, "landmarks"),
}


def transfer(
    weights: Mapping[str, Tensor], fresh: Mapping[str, Tensor], source: KeypointSchema, target: KeypointSchema
) -> tuple[dict[str, Tensor], str]:
    """Make weights of a model of another schema.

    Args:
        weights: of the source's model, by name.
        fresh: those of the target's model before it learns, by name.
        source: the schema of the weights.
        target: the schema of the model. Names are the same where their words are, in any order and spelling.

    Returns:
        The weights, without those that the source has nothing of, and a table of what was taken.
    """
    found = {
        "classes": _indices(target.class_names, source.class_names),
        "landmarks": _shared_slots(source, target),
        "kinds": _indices(_kinds(target), _kinds(source)),
    }
    numbers = {
        "classes": source.num_classes,
        "landmarks": source.num_keypoints,
        "kinds": len(_kinds(source)),
    }
    made = {}
    for name, weight in weights.items():
        layout = next((layout for part, layout in _LAYOUTS.items() if re.search(part, name)), None)
        if layout is None or name not in fresh:
            made[name] = weight
            continue
        rows = _rows(found[layout.unit], numbers[layout.unit], layout)
        merged = _merge(weight, fresh[name], rows, layout.axis)
        if merged is not None:
            made[name] = merged
    return made, _table(source, target, found)


def _indices(names: tuple[str, ...], others: tuple[str, ...]) -> list[int]:
    """Return the index that each name has among others, or -1."""
    places = {_key(name): index for index, name in reversed(list(enumerate(others)))}
    return [places.get(_key(name), _NONE) for name in names]


def _key(name: str) -> tuple[str, ...]:
    """Return what "Left cuff" and "cuff_left" have in common."""
    return tuple(sorted(words_of(name)))


def _kinds(schema: KeypointSchema) -> tuple[str, ...]:
    """Return the kinds' names in the order of their numbers."""
    return tuple(dict.fromkeys(name for names in schema.kind_names for name in names))


def _shared_slots(source: KeypointSchema, target: KeypointSchema) -> list[int]:
    """Return the source's slot of each of the target's, or -1."""
    found = [_NONE] * target.num_keypoints
    for own, other in enumerate(_indices(target.class_names, source.class_names)):
        if other == _NONE:
            continue
        indices = _indices(target.keypoint_names[own], source.keypoint_names[other])
        for slot, index in zip(target.slots[own], indices, strict=True):
            if index != _NONE:
                found[slot] = source.slots[other][index]
    return found


def _rows(found: list[int], number: int, layout: _Layout) -> list[int]:
    """Return the source's row of each row of the target, of one anchor; -1 where there is none."""
    if layout.background:
        found = [*found, number]
    return [
        index * layout.size + part if index != _NONE else _NONE
        for index in found
        for part in range(layout.size)
    ]


def _merge(weight: Tensor, fresh: Tensor, rows: list[int], axis: int) -> Tensor | None:
    """Copy rows into the fresh weight; None where nothing can be copied, or the layers differ otherwise."""
    index = torch.tensor(rows)
    known = index != _NONE
    if not known.any() or weight.dim() != fresh.dim() or fresh.shape[axis] % len(rows):
        return None
    anchors = fresh.shape[axis] // len(rows)
    if weight.shape[axis] % anchors:
        return None
    own = (
        fresh.detach().to("cpu", weight.dtype, copy=True).movedim(axis, 0).unflatten(0, (anchors, len(rows)))
    )
    others = weight.cpu().movedim(axis, 0).unflatten(0, (anchors, weight.shape[axis] // anchors))
    if own.shape[2:] != others.shape[2:] or index.max() >= others.shape[1]:
        return None
    own[:, known] = others[:, index[known]]
    return own.flatten(0, 1).movedim(0, axis).contiguous()


def _table(source: KeypointSchema, target: KeypointSchema, found: Mapping[str, list[int]]) -> str:
    """Return what is taken and what starts anew, a row for each class of the target."""
    rows = []
    for index, name in enumerate(target.class_names):
        taken = [found["landmarks"][slot] != _NONE for slot in target.slots[index]]
        anew = [
            name for name, is_taken in zip(target.keypoint_names[index], taken, strict=True) if not is_taken
        ]
        other = found["classes"][index]
        origin = source.class_names[other] if other != _NONE else "anew"
        rows.append((name, origin, f"{sum(taken)} of {len(taken)}", ", ".join(anew)))
    kinds = [index != _NONE for index in found["kinds"]]
    headers = (f"class of {target.name}", f"weights of {source.name}", "landmarks taken", "landmarks anew")
    return f"{tabulate(rows, headers)}\nkinds of landmarks taken: {sum(kinds)} of {len(kinds)}"
