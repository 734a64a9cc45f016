"""Left and right in the names of landmarks."""

import re
from collections.abc import Sequence

Edge = tuple[int, int]

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")
_SIDES = {"left": "left", "l": "left", "right": "right", "r": "right"}
_OTHER = {"left": "right", "right": "left"}


def pairs_by_name(names: Sequence[str]) -> tuple[tuple[Edge, ...], list[str]]:
    """Return the landmarks of a class that are each other's mirror images, by their names.

    Two names are a pair where they are the same but for the words left and right, or l and r, in any
    spelling: ``cuff_left``, ``Left cuff``, ``leftCuff``, ``L-cuff``, ``cuff.l``.

    Args:
        names: of the landmarks of a class.

    Returns:
        Pairs of indices, the lower one first, and the names that have a side but no mirror image.
    """
    words = [words_of(name) for name in names]
    first = {name: index for index, name in reversed(list(enumerate(words)))}
    pairs, alone = [], []
    for index, name in enumerate(words):
        mirror = tuple(_OTHER.get(word, word) for word in name)
        if mirror == name:
            continue  # on the axis
        partner = first.get(mirror)
        if partner is None or first[name] != index:
            alone.append(names[index])
        elif index < partner:
            pairs.append((index, partner))
    return tuple(pairs), alone


def certain_pairs(names: Sequence[str]) -> tuple[Edge, ...] | None:
    """Return the pairs by name, () of a single landmark; None where names do not tell of all or of any."""
    pairs, alone = pairs_by_name(names)
    return None if alone or (len(names) > 1 and not pairs) else pairs


def words_of(name: str) -> tuple[str, ...]:
    """Return the words of a name in lower case, with sides in full: the same in every spelling."""
    return tuple(_SIDES.get(word, word) for word in map(str.lower, _WORDS.findall(name)))
