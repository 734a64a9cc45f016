"""Garments before anybody wears them: class, cut and cloth."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kgdet_d2.schema import DEEPFASHION2
from kgdet_d2.synthetic.cloth import Cloth, random_cloth

# Ranges in body coordinates (lengths in heads, heights as y; limb lengths in bones, see Limb.at).
_NECK = {"neck_width": (0.25, 0.46), "neck_depth": (0.12, 0.55), "neck_round": (0.4, 0.95)}
_TOP = {
    **{"hem": (2.9, 3.75), "hem_curve": (-0.06, 0.12)},
    **{"ease": (0.02, 0.2), "loose": (0, 1), "flare": (-0.05, 0.2)},
}
_DRESS = {
    **{"hem": (4.5, 6.1), "hem_curve": (0, 0.12)},
    **{"ease": (0.02, 0.12), "loose": (0, 0.4), "flare": (0.02, 0.42)},
}
_COAT = {
    **{"neck_width": (0.26, 0.38), "lapel": (0, 0.3)},
    **{"opening_top": (1.65, 2.3), "opening": (0.07, 0.36), "spread": (-0.03, 0.22)},
    **{"hem": (3.2, 5.0), "ease": (0.2, 0.3), "loose": (0.8, 1), "flare": (0, 0.14)},
}
_SHORT_SLEEVE = {"sleeve": (0.5, 0.85), "sleeve_ease": (0.05, 0.14), "cuff_ease": (0.05, 0.18)}
_LONG_SLEEVE = {"sleeve": (1.6, 1.97), "sleeve_ease": (0.04, 0.13), "cuff_ease": (0.03, 0.12)}
_OVER = {"sleeve_ease": (0.13, 0.19)}  # outwear's sleeves have room for other sleeves
_VEST = {"neck_width": (0.3, 0.44), "strap": (0.18, 0.3), "neck_depth": (0.3, 0.7)}
_SLING = {"neck_width": (0.4, 0.52), "strap": (0.05, 0.08), "bodice": (1.9, 2.1), "neck_round": (0.3, 0.9)}
_WAIST = {"waist": (2.7, 3.0), "ease": (0.02, 0.1)}

_CUTS: dict[str, dict[str, tuple[float, float]]] = {
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
        return DEEPFASHION2.class_names[self.category]

    @property
    def keypoint_names(self) -> tuple[str, ...]:
        return DEEPFASHION2.keypoint_names[self.category]

    @property
    def kind(self) -> str:
        """top, outwear, dress or bottom: what it is worn with."""
        if "neck_left" not in self.keypoint_names:
            return "bottom"
        return next((kind for kind in ("outwear", "dress") if kind in self.name), "top")

    @property
    def sleeved(self) -> bool:
        return "sleeve" in self.cut


def random_design(rng: np.random.Generator, category: int) -> Design:
    """A garment of one class (0-based) with random cut and cloth."""
    ranges = _CUTS[DEEPFASHION2.class_names[category]]
    cut = {measure: float(rng.uniform(*limits)) for measure, limits in ranges.items()}
    return Design(category, cut, random_cloth(rng))
