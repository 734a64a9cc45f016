"""FLD (Fashion Landmark Detection in the Wild, ECCV 2016): 3 classes that share 8 landmark slots."""

from kgdet_d2.schema.keypoint_schema import KeypointSchema, chains

_COLLAR = ("collar_left", "collar_right")
_SLEEVE = ("sleeve_left", "sleeve_right")
_WAISTLINE = ("waistline_left", "waistline_right")
_HEM = ("hem_left", "hem_right")
_FULL = _COLLAR + _SLEEVE + _WAISTLINE + _HEM
_CLASSES = {"upper": _COLLAR + _SLEEVE + _HEM, "lower": _WAISTLINE + _HEM, "full": _FULL}


def _skeleton(names: tuple[str, ...]):
    """Join collar, waistline and hem across; sleeves out from the collar; the sides down."""
    down = [part for part in ("collar", "waistline", "hem") if f"{part}_left" in names]
    sides = [[f"{part}_{side}" for part in down] for side in ("left", "right")]
    across = [[f"{part}_left", f"{part}_right"] for part in down]
    sleeves = [[f"collar_{side}", f"sleeve_{side}"] for side in ("left", "right") if "sleeve_left" in names]
    return chains(names, *across, *sleeves, *sides)


FLD = KeypointSchema(
    name="fld",
    class_names=tuple(_CLASSES),
    keypoint_names=tuple(_CLASSES.values()),
    slots=tuple(tuple(_FULL.index(name) for name in names) for names in _CLASSES.values()),
    # FLD publishes no sigmas (its own metric is the normalised error). These are DeepFashion2's for the
    # landmarks of the same meaning: neckline corner, long sleeve's outer cuff, trousers' waist, top's hem.
    sigmas=(0.017, 0.017, 0.043, 0.043, 0.0275, 0.0275, 0.0599, 0.0599),
    skeleton=tuple(_skeleton(names) for names in _CLASSES.values()),
)
