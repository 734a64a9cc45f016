"""What may be wrong with a dataset, by kinds: errors of photos, and suspicions on photos and garments."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of problem.

    Attributes:
        name: a few words.
        meaning: what such photos or garments have in common, with the bounds.
        is_error: a training stops at it, or would learn from a wrong picture; others are suspicions.
    """

    name: str
    meaning: str
    is_error: bool = False

    @property
    def file_stem(self) -> str:
        """The name as a file's."""
        return self.name.replace(" ", "_")


@dataclass(frozen=True)
class Problem:
    """One photo, or some garments of it, in which something may be wrong.

    Attributes:
        kind: of the problem.
        photo: the photo's row.
        reason: what was found, with its numbers.
        garments: rows of the garments, none where it is the photo alone.
        other_photo: row of the photo that it was compared with.
        severity: the larger the more likely wrong; to be compared within a kind.
    """

    kind: Kind
    photo: int
    reason: str
    garments: tuple[int, ...] = ()
    other_photo: int | None = None
    severity: float = 1.0


DOUBLE_PHOTO = Kind("double photo", "comes twice: by the name of its file or, with --decode, by its pixels")


def double_photos(keys: Sequence[Hashable | None], names: Sequence[str]) -> list[Problem]:
    """Find the photos whose key an earlier one has.

    Args:
        keys: N of them, equal for photos that are the same; None for a photo that is not compared.
        names: the photos' own, N.
    """
    first: dict[Hashable, int] = {}
    problems = []
    for row, key in enumerate(keys):
        if key is None:
            continue
        earlier = first.setdefault(key, row)
        if earlier != row:
            reason = f"the same as photo {earlier + 1}, {names[earlier]}"
            problems.append(Problem(DOUBLE_PHOTO, row, reason, other_photo=earlier))
    return problems


def by_kind(problems: Iterable[Problem], kinds: Iterable[Kind]) -> dict[Kind, list[Problem]]:
    """Return the problems of each of the kinds, the severest first, otherwise in order of the photos."""
    sorted_problems: dict[Kind, list[Problem]] = {kind: [] for kind in kinds}
    for problem in sorted(problems, key=lambda problem: (-problem.severity, problem.photo, problem.garments)):
        sorted_problems[problem.kind].append(problem)
    return sorted_problems
