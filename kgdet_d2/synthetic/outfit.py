"""Which garments are worn together."""

import numpy as np

from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.synthetic.design import Design, random_design

_TOPS, _BOTTOMS = (
    ("short sleeve top", "long sleeve top", "vest", "vest", "sling"),
    ("shorts", "trousers", "skirt"),
)
_DRESSES = ("short sleeve dress", "long sleeve dress", "vest dress", "sling dress")
# Under outwear only what can still be told from the other classes there.
_UNDER = {
    "short sleeve outwear": ("long sleeve top", "sling", "long sleeve dress", "sling dress"),
    "long sleeve outwear": ("short sleeve top", "sling", "short sleeve dress", "sling dress"),
}
# Tops and bottoms come along with other garments too, dresses hardly: so that all are about equally frequent.
_LEADING = (*DEEPFASHION2.class_names, *_DRESSES[:3])


def leading_category(pair: int) -> int:
    """0-based class of the garment that a pair of photos shows; goes around the classes."""
    return DEEPFASHION2.class_names.index(_LEADING[pair % len(_LEADING)])


def dressed(rng: np.random.Generator, leading: Design) -> list[Design]:
    """One to three garments worn together, the leading one among them and outwear last.

    A top comes with a bottom, outwear with what is under it, a dress alone; some tops and dresses get
    outwear over them.
    """

    def any_of(names: tuple[str, ...]) -> Design:
        return random_design(rng, DEEPFASHION2.class_names.index(str(rng.choice(names))))

    if leading.kind == "outwear":
        inner = any_of(_UNDER[leading.name])
    elif leading.kind == "bottom":
        inner = any_of(_TOPS)
    else:
        inner = leading
    outfit = [inner]
    if inner.kind == "top":
        outfit.append(leading if leading.kind == "bottom" else any_of(_BOTTOMS))
    over = tuple(name for name, under in _UNDER.items() if inner.name in under)
    if leading.kind == "outwear":
        outfit.append(leading)
    elif over and rng.random() < 0.2:
        outfit.append(any_of(over))
    return outfit
