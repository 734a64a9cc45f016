"""Garments: class, cut and cloth (a design), its pieces of cloth, and outfits."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.synthetic.canvas import Camera, Canvas, Layer
from kgdet_d2.synthetic.cloth import Cloth, random_cloth
from kgdet_d2.synthetic.figure import Body

Points = dict[str, np.ndarray]  # by name: (3,) in body coordinates
_Ranges = dict[str, tuple[float, float]]

# Ranges in body coordinates (lengths in heads, heights as y; limb lengths in bones, see Limb.at). The order
# of the measures is that of the random draws.
_NECK: _Ranges = {"neck_width": (0.25, 0.46), "neck_depth": (0.12, 0.55), "neck_round": (0.4, 0.95)}
_TOP: _Ranges = {
    "hem": (2.9, 3.75),
    "hem_curve": (-0.06, 0.12),
    "ease": (0.02, 0.2),
    "loose": (0, 1),  # 0: follows the body; 1: nowhere narrower than the bust
    "flare": (-0.05, 0.2),
}
_DRESS: _Ranges = {
    "hem": (4.5, 6.1),
    "hem_curve": (0, 0.12),
    "ease": (0.02, 0.12),
    "loose": (0, 0.4),
    "flare": (0.02, 0.42),
}
_COAT: _Ranges = {
    "neck_width": (0.26, 0.38),
    "lapel": (0, 0.3),
    "opening_top": (1.65, 2.3),
    "opening": (0.07, 0.36),
    "spread": (-0.03, 0.22),
    "hem": (3.2, 5.0),
    "ease": (0.2, 0.3),
    "loose": (0.8, 1),
    "flare": (0, 0.14),
}
_SHORT_SLEEVE: _Ranges = {"sleeve": (0.5, 0.85), "sleeve_ease": (0.05, 0.14), "cuff_ease": (0.05, 0.18)}
_LONG_SLEEVE: _Ranges = {"sleeve": (1.6, 1.97), "sleeve_ease": (0.04, 0.13), "cuff_ease": (0.03, 0.12)}
_OVER: _Ranges = {"sleeve_ease": (0.13, 0.19)}  # outwear's sleeves have room for other sleeves
_VEST: _Ranges = {"neck_width": (0.3, 0.44), "strap": (0.18, 0.3), "neck_depth": (0.3, 0.7)}
_SLING: _Ranges = {
    "neck_width": (0.4, 0.52),
    "strap": (0.05, 0.08),
    "bodice": (1.9, 2.1),
    "neck_round": (0.3, 0.9),
}
_WAIST: _Ranges = {"waist": (2.7, 3.0), "ease": (0.02, 0.1)}

_CUTS: dict[str, _Ranges] = {
    "short sleeve top": {**_NECK, **_TOP, **_SHORT_SLEEVE},
    "long sleeve top": {**_NECK, **_TOP, **_LONG_SLEEVE},
    "short sleeve outwear": {**_COAT, **_SHORT_SLEEVE, **_OVER, "cuff_ease": (0.16, 0.24)},
    "long sleeve outwear": {**_COAT, **_LONG_SLEEVE, **_OVER},
    "vest": {**_NECK, **_TOP, **_VEST},
    "sling": {**_TOP, **_SLING},
    "shorts": {**_WAIST, "length": (0.3, 0.75), "leg_ease": (0.06, 0.2), "hem_ease": (0.06, 0.28)},
    "trousers": {**_WAIST, "length": (1.6, 1.97), "leg_ease": (0.02, 0.16), "hem_ease": (0.02, 0.3)},
    "skirt": {**_WAIST, "hem": (4.2, 5.9), "flare": (-0.02, 0.5), "hem_curve": (0, 0.12)},
    "short sleeve dress": {**_NECK, **_DRESS, **_SHORT_SLEEVE},
    "long sleeve dress": {**_NECK, **_DRESS, **_LONG_SLEEVE},
    "vest dress": {**_NECK, **_DRESS, **_VEST},
    "sling dress": {**_DRESS, **_SLING},
}

# Beginnings of the names of points where outlines may bend sharply.
_CORNERS = (
    *("neck_left", "neck_right", "opening_top", "shoulder", "strap", "armpit", "sleeve_root", "cuff"),
    *("waist_left", "waist_right", "crotch"),
    *("hem_left", "hem_right", "hem_outer", "hem_inner", "opening_hem"),
)
_SLEEVE = ("sleeve", "cuff", "elbow")  # beginnings of the names of a sleeve's points

# A class that stands twice is drawn twice as often.
_TOPS = ("short sleeve top", "long sleeve top", "vest", "vest", "sling")
_BOTTOMS = ("shorts", "trousers", "skirt")
_DRESSES = ("short sleeve dress", "long sleeve dress", "vest dress", "sling dress")
# Under outwear only what can still be told from the other classes there.
_UNDER = {
    "short sleeve outwear": ("long sleeve top", "sling", "long sleeve dress", "sling dress"),
    "long sleeve outwear": ("short sleeve top", "sling", "short sleeve dress", "sling dress"),
}
# Tops and bottoms come along with other garments too, dresses hardly: so that all are about equally frequent.
_LEADING = (*DEEPFASHION2.class_names, *_DRESSES[:3])


@dataclass(frozen=True)
class Design:
    """What makes two garments the same article.

    Attributes:
        category: 0-based class index of DeepFashion2.
        cut: named measures, in body coordinates.
        cloth: colours, pattern, print.
    """

    category: int
    cut: Mapping[str, float]
    cloth: Cloth

    @property
    def name(self) -> str:
        """The class's name."""
        return DEEPFASHION2.class_names[self.category]

    @property
    def keypoint_names(self) -> tuple[str, ...]:
        """The names of the class's K_c landmarks, in DeepFashion2's order."""
        return DEEPFASHION2.keypoint_names[self.category]

    @property
    def kind(self) -> str:
        """What the garment is worn as: top, outwear, dress or bottom."""
        if "neck_left" not in self.keypoint_names:
            return "bottom"
        for kind in ("outwear", "dress"):
            if kind in self.name:
                return kind
        return "top"

    @property
    def sleeved(self) -> bool:
        """Whether the garment has sleeves."""
        return "sleeve" in self.cut


def random_design(rng: np.random.Generator, category: int) -> Design:
    """Return a garment with random cut and cloth.

    Args:
        rng: where the choices come from.
        category: 0-based class index of DeepFashion2.
    """
    ranges = _CUTS[DEEPFASHION2.class_names[category]]
    cut = {measure: float(rng.uniform(*limits)) for measure, limits in ranges.items()}
    return Design(category, cut, random_cloth(rng))


def leading_category(pair: int) -> int:
    """Return the class (0-based) of the garment that a pair of photos shows; it goes around the classes."""
    return DEEPFASHION2.class_names.index(_LEADING[pair % len(_LEADING)])


def sample_outfit(rng: np.random.Generator, leading: Design) -> list[Design]:
    """Return one to three garments worn together, the leading one among them and outwear last.

    A top comes with a bottom, outwear with a garment under it, a dress alone; some tops and dresses get
    outwear over them.

    Args:
        rng: where the choices come from.
        leading: the garment that the photo is about.
    """
    if leading.kind == "outwear":
        inner = _random_of(rng, _UNDER[leading.name])
    elif leading.kind == "bottom":
        inner = _random_of(rng, _TOPS)
    else:
        inner = leading
    outfit = [inner]
    if inner.kind == "top":
        outfit.append(leading if leading.kind == "bottom" else _random_of(rng, _BOTTOMS))
    over = tuple(name for name, under in _UNDER.items() if inner.name in under)
    if leading.kind == "outwear":
        outfit.append(leading)
    elif over and rng.random() < 0.2:
        outfit.append(_random_of(rng, over))
    return outfit


def _random_of(rng: np.random.Generator, names: tuple[str, ...]) -> Design:
    """Return a random design of one of the classes."""
    return random_design(rng, DEEPFASHION2.class_names.index(str(rng.choice(names))))


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


def is_corner(name: str, design: Design) -> bool:
    """Return whether outlines of the design may bend sharply at a named point."""
    if name == "neck_front" or (name.startswith("neck_front") and "bodice" in design.cut):
        return design.cut.get("neck_round", 1.0) < 0.6
    return name.startswith(_CORNERS)


def pieces_of(design: Design, body: Body, *, layer: Layer) -> list[Piece]:
    """Return the pieces of cloth a garment consists of, as outlines through named points.

    Args:
        design: the garment.
        body: who wears it; a sleeve is behind the torso where its arm is.
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


def _contour(design: Design) -> list[str]:
    """Return the points from the left shoulder around to the right.

    Those of sleeves are left out; the armholes' auxiliary points are put in.
    """
    names = design.keypoint_names
    start = names.index("shoulder_left")
    contour = [name for name in names[start:] if not name.startswith(_SLEEVE)]
    if design.sleeved:
        return contour
    auxiliary = "strap" if "bodice" in design.cut else "armhole"
    contour.insert(1, f"{auxiliary}_left")
    contour.insert(len(contour) - 1, f"{auxiliary}_right")
    return contour


def _sleeves(design: Design, body: Body) -> list[Piece]:
    """Return the left sleeve and the right one."""
    outwear = design.kind == "outwear"
    front = Layer.OUTWEAR_SLEEVE if outwear else Layer.SLEEVE
    behind = Layer.OUTWEAR_SLEEVE_BEHIND if outwear else Layer.SLEEVE_BEHIND
    pieces = []
    for side, arm in zip(("left", "right"), body.arms, strict=True):
        ends = (f"shoulder_{side}", f"armpit_{side}")
        names = []
        for name in design.keypoint_names:
            if name in ends or (name.startswith(_SLEEVE) and name.endswith(side)):
                names.append(name)
        pieces.append(Piece((*names, f"sleeve_root_{side}"), behind if arm.behind else front))
    return pieces


def _outwear_pieces(design: Design) -> list[Piece]:
    """Return the back's lining and the two front panels."""
    trunk = ("shoulder", "armpit", "side_", "hem_")
    down = [name for name in design.keypoint_names if name.startswith(trunk)]
    left = [name for name in down if name.endswith("left")]
    edge = [f"opening_{part}_left" for part in ("hem", "lower", "upper", "top")]
    left_panel = ("neck_left", *left, *edge, "neck_front_left")
    right_panel = tuple(name.replace("left", "right") for name in left_panel)
    back = ("neck_back", "neck_left", *down, "neck_right")
    return [
        Piece(back, Layer.OUTWEAR_BACK, lining=True),
        Piece(left_panel, Layer.OUTER),
        Piece(right_panel, Layer.OUTER),
    ]


@dataclass
class Garment:
    """A garment in a photo: between its design and its annotation.

    Attributes:
        design: class, cut and cloth.
        points: by name, in body coordinates.
        style: DeepFashion2's: positive for the article that a pair of photos shares, else 0.
        pieces: the pieces of cloth by the number that owns their pixels.
        painted: by the same number, bool (H, W): the pixels the piece covered when it was painted.
    """

    design: Design
    points: Points
    style: int
    pieces: dict[int, Piece] = field(default_factory=dict)
    painted: dict[int, np.ndarray] = field(default_factory=dict)

    def keypoints(self, camera: Camera) -> np.ndarray:
        """Return the landmarks' pixels, (K_c, 2), in DeepFashion2's order."""
        return camera(np.stack([self.points[name] for name in self.design.keypoint_names]))

    def extent(self) -> np.ndarray:
        """Return bool (H, W): the pixels where it was painted, hidden parts included."""
        return np.logical_or.reduce(list(self.painted.values()))

    def visible(self, canvas: Canvas) -> np.ndarray:
        """Return bool (H, W): the pixels where the canvas still shows it."""
        return np.isin(canvas.owner, list(self.pieces))
