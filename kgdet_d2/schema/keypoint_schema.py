"""The landmarks of a dataset: classes, names, mirror pairs, and the precision of their annotation."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from kgdet_d2.schema.sides import Edge, certain_pairs, pairs_by_name

_REQUIRED = ("name", "class_names", "keypoint_names", "slots", "sigmas", "skeleton")


@dataclass(frozen=True)
class KeypointSchema:
    """The landmarks of a fashion dataset.

    A landmark has a *global* slot 0..K-1 in the network and a *local* index 0..K_c-1 in its class
    everywhere else. Classes may own slots of their own (DeepFashion2) or share them (FLD).

    Attributes:
        name: the schema's name, for ``MODEL.KGDET.SCHEMA``.
        class_names: C names, in the order of the 0-based class index.
        keypoint_names: per class, the K_c names in local order.
        slots: per class, the global slot of each local landmark.
        sigmas: K standard deviations of OKS, relative to the square root of the garment's area.
        skeleton: per class, pairs of local indices to be joined in drawings.
        flip_pairs: per class, pairs of local indices that change places in the mirrored image, () where each
            landmark stays; None where that is not known, see :attr:`unpaired_classes`. Default: by their
            names, see :func:`kgdet_d2.schema.sides.pairs_by_name`.
        kind_names: per class, the names by which landmarks are the same whatever their class, see
            :attr:`kinds`. Default: ``keypoint_names``.

    Raises:
        ValueError: when the parts contradict one another.
    """

    name: str
    class_names: tuple[str, ...]
    keypoint_names: tuple[tuple[str, ...], ...]
    slots: tuple[tuple[int, ...], ...]
    sigmas: tuple[float, ...]
    skeleton: tuple[tuple[Edge, ...], ...]
    flip_pairs: tuple[tuple[Edge, ...] | None, ...] = ()
    kind_names: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.flip_pairs:
            object.__setattr__(self, "flip_pairs", tuple(map(certain_pairs, self.keypoint_names)))
        if not self.kind_names:
            object.__setattr__(self, "kind_names", self.keypoint_names)
        for field in ("keypoint_names", "slots", "skeleton", "flip_pairs", "kind_names"):
            count = len(getattr(self, field))
            self._require(count == self.num_classes, f"{field} has {count} classes")
        self._require(len(set(self.class_names)) == self.num_classes, "a class name occurs twice")
        self._require(all(sigma > 0 for sigma in self.sigmas), "a sigma is not positive")
        used = {slot for slots in self.slots for slot in slots}
        self._require(
            used == set(range(self.num_keypoints)), f"slots do not cover 0..{self.num_keypoints - 1}"
        )
        for index in range(self.num_classes):
            self._check_class(index)
        for index, slots in enumerate(self.slots):
            agrees = np.array_equal(self.flip_map[list(slots)], np.array(slots)[self.local_flip(index)])
            self._require(agrees, "classes that share slots have other pairs of left and right")

    def _check_class(self, index: int) -> None:
        where = f"class {self.class_names[index]!r}: "
        names, slots, count = self.keypoint_names[index], self.slots[index], self.num_class_keypoints(index)
        self._require(len(set(names)) == count, where + "a landmark name occurs twice")
        self._require(len(set(slots)) == len(slots) == count, where + f"{len(slots)} slots, {count} names")
        self._require(len(self.kind_names[index]) == count, where + "a kind for each landmark is expected")
        pairs = self.flip_pairs[index] or ()
        for a, b in (*self.skeleton[index], *pairs):
            self._require(0 <= a < count and 0 <= b < count and a != b, where + f"bad edge ({a}, {b})")
        often = [names[landmark] for landmark, times in Counter(chain(*pairs)).items() if times > 1]
        self._require(not often, where + f"more than one mirror image of {', '.join(map(repr, often))}")

    def _require(self, condition: bool, message: str) -> None:
        if not condition:
            raise ValueError(f"keypoint schema {self.name!r} ({self.num_classes} classes): {message}")

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes by name, of what JSON can express."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "KeypointSchema":
        """Make a schema of what :meth:`to_dict` returned, lists in place of tuples.

        Those that have a default may be missing, as in files of earlier versions.

        Raises:
            ValueError: attributes that are missing or unknown, or that contradict one another.
        """
        names = [field.name for field in fields(cls)]
        if not set(_REQUIRED) <= set(values) <= set(names):
            raise ValueError(f"keypoint schema: expected the attributes {names}, got {list(values)}")
        return cls(**{name: _with_tuples(value) for name, value in values.items()})

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return len(self.class_names)

    @property
    def num_keypoints(self) -> int:
        """K, the landmarks of all classes together: the network's slots."""
        return len(self.sigmas)

    def num_class_keypoints(self, class_index: int) -> int:
        """Return K_c, the number of landmarks of one class."""
        return len(self.keypoint_names[class_index])

    def difference(self, other: "KeypointSchema") -> str:
        """Return how another schema's classes, landmarks or slots differ from these; "" where they do not.

        Without a difference the annotations and the predictions of one are those of the other.
        """
        if other.class_names != self.class_names:
            return f"classes: expected {list(self.class_names)}, got {list(other.class_names)}"
        for name, own, others in zip(
            self.class_names, self.keypoint_names, other.keypoint_names, strict=True
        ):
            if own != others:
                return f"landmarks of class {name!r}: expected {list(own)}, got {list(others)}"
        return "" if other.slots == self.slots else f"slots: expected {self.slots}, got {other.slots}"

    @cached_property
    def unpaired_classes(self) -> dict[str, str]:
        """Classes whose mirror images are not known, and why: images of them cannot be mirrored in training.

        Names tell nothing of left and right there, or one side's landmark has no partner.
        """
        reasons = {}
        for index, pairs in enumerate(self.flip_pairs):
            if pairs is None:
                alone = pairs_by_name(self.keypoint_names[index])[1]
                names = ", ".join(map(repr, alone))
                reason = f"no mirror image of {names}" if alone else "no landmark is named left or right"
                reasons[self.class_names[index]] = reason
        return reasons

    def local_flip(self, class_index: int) -> np.ndarray:
        """Return int64 (K_c,): entry i is the local index that landmark i has in the mirrored image."""
        return self._local_flips[class_index]

    @cached_property
    def _local_flips(self) -> list[np.ndarray]:
        flips = []
        for names, pairs in zip(self.keypoint_names, self.flip_pairs, strict=True):
            flip = np.arange(len(names), dtype=np.int64)
            for a, b in pairs or ():
                flip[[a, b]] = b, a
            flips.append(flip)
        return flips

    @cached_property
    def flip_map(self) -> np.ndarray:
        """int64 (K,), the local flips over global slots. Landmarks never leave their class."""
        flip = np.arange(self.num_keypoints)
        for index, slots in enumerate(self.slots):
            flip[list(slots)] = np.array(slots)[self.local_flip(index)]
        flip.setflags(write=False)
        return flip

    @cached_property
    def slot_names(self) -> tuple[str, ...]:
        """K names, ``class/landmark``; a slot shared by classes carries the name of the last of them."""
        names = [""] * self.num_keypoints
        for index, class_name in enumerate(self.class_names):
            for slot, name in zip(self.slots[index], self.keypoint_names[index], strict=True):
                names[slot] = f"{class_name}/{name}"
        return tuple(names)

    @cached_property
    def kinds(self) -> np.ndarray:
        """int64 (K,): the kind of each slot, 0.., that landmarks of one kind's name share."""
        kinds = np.zeros(self.num_keypoints, dtype=np.int64)
        names: dict[str, int] = {}
        for class_slots, class_kinds in zip(self.slots, self.kind_names, strict=True):
            for slot, name in zip(class_slots, class_kinds, strict=True):
                kinds[slot] = names.setdefault(name, len(names))
        kinds.setflags(write=False)
        return kinds

    @cached_property
    def padded_slots(self) -> np.ndarray:
        """int64 (C, m), m the most landmarks of a class: its slots in local order, then -1."""
        longest = max(map(len, self.slots))
        return np.array([[*slots, *[-1] * (longest - len(slots))] for slots in self.slots])

    def scatter(self, keypoints: np.ndarray, class_index: int) -> np.ndarray:
        """Put a class's landmarks into their global slots.

        Args:
            keypoints: (K_c, 3) of x, y, v.
            class_index: the class.

        Returns:
            (K, 3) with zeros in the other classes' slots.

        Raises:
            ValueError: another shape.
        """
        expected = (self.num_class_keypoints(class_index), 3)
        if keypoints.shape != expected:
            raise ValueError(
                f"landmarks of class {self.class_names[class_index]!r}: expected shape {expected}, "
                f"got {keypoints.shape}"
            )
        out = np.zeros((self.num_keypoints, 3), dtype=keypoints.dtype)
        out[list(self.slots[class_index])] = keypoints
        return out

    def gather(self, keypoints: np.ndarray, class_index: int) -> np.ndarray:
        """Take a class's landmarks (..., K_c, D) out of the global slots (..., K, D)."""
        return keypoints[..., list(self.slots[class_index]), :]


def _with_tuples(value: Any) -> Any:
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value
