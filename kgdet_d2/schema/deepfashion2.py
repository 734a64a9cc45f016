"""DeepFashion2's 13 classes and 294 landmarks.

Class names and landmark counts are those of the dataset's annotations; the landmarks' meanings were read
off the annotations and their mirror pairs. Contours run from the neck down the left side of the *image*
(the wearer's right, on a frontal garment) and up the right side.

The flip table that circulates for DeepFashion2 exchanges landmarks 2-26 and 4-6 of *short sleeve outwear*.
Here, as in long sleeve outwear, the neckline corners (2, 6) and the tops of the two front edges (4, 26) are
partners; the OKS sigmas are symmetric only so.
"""

from kgdet_d2.schema.keypoint_schema import KeypointSchema, chains, mirrored

_NECK_LEFT = ("neck_left", "neck_front_left")
_NECK = ("neck_back", *mirrored(_NECK_LEFT, ["neck_front"]))
_NECK_LOOP = (*_NECK, "neck_back")

_SHORT_SLEEVE = (
    "shoulder_left",
    "sleeve_outer_left",
    "cuff_outer_left",
    "cuff_inner_left",
    "sleeve_inner_left",
    "armpit_left",
)
_LONG_SLEEVE = (
    "shoulder_left",
    "sleeve_outer_upper_left",
    "elbow_outer_left",
    "sleeve_outer_lower_left",
    "cuff_outer_left",
    "cuff_inner_left",
    "sleeve_inner_lower_left",
    "elbow_inner_left",
    "sleeve_inner_upper_left",
    "armpit_left",
)
_NO_SLEEVE = ("shoulder_left", "armpit_left")


def _sides(count: int) -> tuple[str, ...]:
    return tuple(f"side_{number}_left" for number in range(1, count + 1))


def _top(sleeve: tuple[str, ...], sides: int) -> tuple[str, ...]:
    """Name the landmarks of a top or dress: the neck, then once around the contour."""
    return _NECK + mirrored((*sleeve, *_sides(sides), "hem_left"), ["hem_centre"])


def _outwear(sleeve: tuple[str, ...]) -> tuple[str, ...]:
    """Name the landmarks of outwear, open at the front.

    Landmark 4 is the top of the left front edge, its partner stands near the end.
    """
    neck = ("neck_back", "neck_left", "neck_front_left", "opening_top_left", "neck_front_right", "neck_right")
    left = (*sleeve, *_sides(2), "hem_left")
    right = mirrored(left)[len(left) :]
    right_edge = ("opening_top_right", "opening_upper_right", "opening_lower_right", "opening_hem_right")
    return (*neck, *left, "opening_hem_left", *right, *right_edge, "opening_upper_left", "opening_lower_left")


_WAIST = ("waist_left", "waist_centre", "waist_right")
_SHORT_SLEEVE_TOP = _top(_SHORT_SLEEVE, sides=2)
_LONG_SLEEVE_TOP = _top(_LONG_SLEEVE, sides=2)
_SHORT_SLEEVE_OUTWEAR = _outwear(_SHORT_SLEEVE)
_LONG_SLEEVE_OUTWEAR = _outwear(_LONG_SLEEVE)
_SLEEVELESS_TOP = _top(_NO_SLEEVE, sides=1)
_SHORTS = _WAIST + mirrored(("side_left", "hem_outer_left", "hem_inner_left"), ["crotch"])
_TROUSERS = _WAIST + mirrored(
    ("hip_left", "knee_outer_left", "hem_outer_left", "hem_inner_left", "knee_inner_left"), ["crotch"]
)
_SKIRT = _WAIST + mirrored(("side_left", "hem_left"), ["hem_centre"])
_SHORT_SLEEVE_DRESS = _top(_SHORT_SLEEVE, sides=4)
_LONG_SLEEVE_DRESS = _top(_LONG_SLEEVE, sides=4)
_SLEEVELESS_DRESS = _top(_NO_SLEEVE, sides=3)


def _top_skeleton(names: tuple[str, ...]):
    contour = ("neck_left", *names[len(_NECK) :], "neck_right")
    return chains(names, _NECK_LOOP, contour)


def _outwear_skeleton(names: tuple[str, ...]):
    shoulder, hem = names.index("shoulder_left"), names.index("hem_left")
    left = (
        *("neck_back", "neck_left"),
        *names[shoulder : hem + 1],
        *("opening_hem_left", "opening_lower_left", "opening_upper_left", "opening_top_left"),
        *("neck_front_left", "neck_left"),
    )
    right = tuple(name.replace("left", "right") for name in left)
    return chains(names, left, right)


def _bottom_skeleton(names: tuple[str, ...]):
    """Join once around: along the waist, down the right side and up the left."""
    return chains(names, (*_WAIST, *reversed(names[len(_WAIST) :]), names[0]))


_GARMENTS = {
    "short sleeve top": (_SHORT_SLEEVE_TOP, _top_skeleton),
    "long sleeve top": (_LONG_SLEEVE_TOP, _top_skeleton),
    "short sleeve outwear": (_SHORT_SLEEVE_OUTWEAR, _outwear_skeleton),
    "long sleeve outwear": (_LONG_SLEEVE_OUTWEAR, _outwear_skeleton),
    "vest": (_SLEEVELESS_TOP, _top_skeleton),
    "sling": (_SLEEVELESS_TOP, _top_skeleton),
    "shorts": (_SHORTS, _bottom_skeleton),
    "trousers": (_TROUSERS, _bottom_skeleton),
    "skirt": (_SKIRT, _bottom_skeleton),
    "short sleeve dress": (_SHORT_SLEEVE_DRESS, _top_skeleton),
    "long sleeve dress": (_LONG_SLEEVE_DRESS, _top_skeleton),
    "vest dress": (_SLEEVELESS_DRESS, _top_skeleton),
    "sling dress": (_SLEEVELESS_DRESS, _top_skeleton),
}

# OKS sigmas of the landmarks in ten-thousandths, as DeepFashion2's evaluation code publishes them, class by
# class. Left and right agree but for long sleeve dress 15/29.
_SIGMAS = (
    "120 158 169 165 169 158 298 329 321 323 340 388 452 574 492 352 492 574 452 388 340 323 321 329 298",
    "194 170 185 193 185 170 286 471 547 526 430 392 513 566 509 564 542 604 599 520 599 604 542 564 "
    "509 566 513 392 430 526 547 471 286",
    "74 85 165 248 165 85 156 231 296 137 195 250 347 380 257 370 257 380 347 250 195 137 296 231 156 "
    "248 469 632 370 469 632",
    "137 153 243 377 243 153 203 366 467 433 393 329 418 477 399 331 420 492 436 478 436 492 420 331 "
    "399 477 418 329 393 433 467 366 203 377 645 573 478 645 573",
    "352 158 210 214 210 158 196 500 489 404 401 404 489 500 196",
    "276 548 283 204 283 548 369 726 677 640 251 640 677 726 369",
    "308 216 308 506 494 463 477 463 494 506",
    "275 202 275 651 451 350 280 392 362 392 280 350 451 651",
    "253 195 253 513 543 415 543 513",
    "153 230 167 145 167 230 332 391 391 396 440 452 498 514 585 655 635 602 635 655 585 514 498 452 "
    "440 396 391 391 332",
    "121 134 158 162 158 134 246 406 470 404 463 466 435 499 455 440 411 490 576 685 618 483 618 685 "
    "576 490 411 440 486 499 435 466 463 404 470 406 246",
    "116 167 160 180 160 167 196 385 421 497 562 528 428 528 562 497 421 385 196",
    "244 297 244 208 244 297 173 616 659 712 707 685 339 685 707 712 659 616 173",
)


def _consecutive_slots() -> tuple[tuple[int, ...], ...]:
    slots, start = [], 0
    for names, _ in _GARMENTS.values():
        slots.append(tuple(range(start, start + len(names))))
        start += len(names)
    return tuple(slots)


DEEPFASHION2 = KeypointSchema(
    name="deepfashion2",
    class_names=tuple(_GARMENTS),
    keypoint_names=tuple(names for names, _ in _GARMENTS.values()),
    slots=_consecutive_slots(),
    sigmas=tuple(int(sigma) / 10_000 for row in _SIGMAS for sigma in row.split()),
    skeleton=tuple(skeleton(names) for names, skeleton in _GARMENTS.values()),
)
