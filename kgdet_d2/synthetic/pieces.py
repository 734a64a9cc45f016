"""The pieces of cloth a fitted garment consists of, as outlines through named points."""

from dataclasses import dataclass
from enum import IntEnum

from kgdet_d2.synthetic.body import Body
from kgdet_d2.synthetic.design import Design


class Layer(IntEnum):
    """From the back of the scene to the front."""

    HAIR = 0
    OUTWEAR_BACK = 1
    COLLAR_BACK = 2
    ARM_BEHIND = 3
    SLEEVE_BEHIND = 4
    OUTWEAR_SLEEVE_BEHIND = 5
    SKIN = 6
    INNER = 7
    MIDDLE = 8
    OUTER = 9
    HEAD = 10
    ARM = 11
    SLEEVE = 12
    OUTWEAR_SLEEVE = 13
    OBJECT = 14


@dataclass(frozen=True)
class Piece:
    """One piece of cloth.

    Attributes:
        names: the points its closed outline goes through, in order. A landmark is visible where one of the
            pieces it lies on is.
        layer: when it is painted.
        lining: the cloth's inside, darker.
    """

    names: tuple[str, ...]
    layer: Layer
    lining: bool = False


_CORNERS = (
    *("neck_left", "neck_right", "opening_top", "shoulder", "strap", "armpit", "sleeve_root", "cuff"),
    *("waist_left", "waist_right", "crotch"),
    *("hem_left", "hem_right", "hem_outer", "hem_inner", "opening_hem"),
)
_SLEEVE = ("sleeve", "cuff", "elbow")


def is_corner(name: str, design: Design) -> bool:
    """Whether outlines may bend sharply at a point."""
    if name == "neck_front" or (name.startswith("neck_front") and "bodice" in design.cut):
        return design.cut.get("neck_round", 1.0) < 0.6
    return name.startswith(_CORNERS)


def _contour(design: Design) -> list[str]:
    """From the left shoulder around to the right, without sleeves, with the armholes' auxiliary points."""
    names = design.keypoint_names
    start = names.index("shoulder_left")
    contour = [name for name in names[start:] if not name.startswith(_SLEEVE)]
    if design.sleeved:
        return contour
    extra = "strap" if "bodice" in design.cut else "armhole"
    contour.insert(1, f"{extra}_left")
    contour.insert(len(contour) - 1, f"{extra}_right")
    return contour


def _sleeves(design: Design, body: Body) -> list[Piece]:
    outwear = design.kind == "outwear"
    pieces = []
    for side, arm in zip(("left", "right"), body.arms, strict=True):
        front = Layer.OUTWEAR_SLEEVE if outwear else Layer.SLEEVE
        behind = Layer.OUTWEAR_SLEEVE_BEHIND if outwear else Layer.SLEEVE_BEHIND
        ends = (f"shoulder_{side}", f"armpit_{side}")
        names = [
            name
            for name in design.keypoint_names
            if name in ends or (name.startswith(_SLEEVE) and name.endswith(side))
        ]
        pieces.append(Piece((*names, f"sleeve_root_{side}"), behind if arm.behind else front))
    return pieces


def _outwear_pieces(design: Design) -> list[Piece]:
    trunk = ("shoulder", "armpit", "side_", "hem_")
    down = [name for name in design.keypoint_names if name.startswith(trunk)]
    left = [name for name in down if name.endswith("left")]
    edge = [f"opening_{part}_left" for part in ("hem", "lower", "upper", "top")]
    panel = ("neck_left", *left, *edge, "neck_front_left")
    back = ("neck_back", "neck_left", *down, "neck_right")
    return [
        Piece(back, Layer.OUTWEAR_BACK, lining=True),
        Piece(panel, Layer.OUTER),
        Piece(tuple(name.replace("left", "right") for name in panel), Layer.OUTER),
    ]


def pieces_of(design: Design, body: Body, *, layer: Layer) -> list[Piece]:
    """The pieces of a garment.

    Args:
        layer: of the torso's or legs' front (INNER is below MIDDLE: a top tucked into a skirt); outwear
            and sleeves have layers of their own.
    """
    if design.kind == "bottom":
        names = design.keypoint_names
        return [Piece((*names[:3], *reversed(names[3:])), layer)]
    sleeves = _sleeves(design, body) if design.sleeved else []
    if design.kind == "outwear":
        return _outwear_pieces(design) + sleeves
    neck = ("neck_right", "neck_front_right", "neck_front", "neck_front_left", "neck_left")
    behind = neck[1:4] if "bodice" in design.cut else neck  # a sling has no cloth between its straps
    collar = Piece((*behind, "neck_back"), Layer.COLLAR_BACK, lining=True)
    return [collar, Piece((*_contour(design), *neck), layer), *sleeves]
