"""Does a flip map agree with where landmarks lie?

A mirrored garment is a garment again, so its landmarks must lie about where the class's landmarks lie, each
in its partner's place. Let (x_i, y_i) be landmark i's median place in the box, 0..1, and p_i its partner.
With the mirror at x = a, the map's error is

    sum_i [(2 a - x_i - x_p_i)^2 + (y_i - y_p_i)^2] = constant - sum_i [(x_i - x_p_i)^2 - (y_i - y_p_i)^2]

since every x_i occurs once as a partner's. The mirror is gone: it does not matter that photos cut garments
off at one side. The best map is a maximum-weight matching, in which a landmark without a match is its own
partner. Where it differs from the given map, that one is contradicted if its error is larger by more than
the landmarks' uncertainty, a pixel and the lopsidedness of people explain.

This is geometry and no more. It cannot see a wrong pair among landmarks that lie close together ("too close
to tell"), and it would take a class for wrongly paired that is lopsided in most of its photos and in one
sense. Drawn garments (:mod:`kgdet_d2.synthetic`) follow this project's own idea of the pairs: that
they agree shows that the arithmetic is right. Only real annotations can speak for a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import networkx
import numpy as np

from kgdet_d2.structures.annotations import AnnotationTable

AGREES, CONTRADICTED = "agrees", "contradicted"
TOO_CLOSE, TOO_FEW = "too close to tell", "too few garments to tell"
MIN_GARMENTS = 30  # in which a landmark is labelled
STANDARD_ERRORS = 3  # that a landmark's median place may be off
LOPSIDEDNESS = 0.2  # of a landmark's spread: how far places may be from mirror images of one another

_FRONTAL = 2  # viewpoint
_WITHIN = (0.1587, 0.8413)  # quantiles one standard deviation from a normal distribution's median
_MEDIAN_ERROR = 1.2533  # its median's standard error by its mean's


@dataclass(frozen=True, eq=False)
class FlipCheck:
    """What the K_c landmarks of one class say; places are x, y in the box, 0..1.

    Attributes:
        category_id: the class index.
        garments: int64 (K_c,), frontal garments in which the landmark is labelled.
        place: float64 (K_c, 2), its median; NaN where it is never labelled.
        partner: int64 (K_c,), local index, by the map under test.
        better: int64 (K_c,), the partner by geometry; differs from ``partner`` where that is contradicted.
        partner_distance: float64 (K_c,), median distance of the mirrored landmark to its partner's place.
        own_distance: float64 (K_c,), to its own place.
        verdict: one of AGREES, CONTRADICTED, TOO_CLOSE, TOO_FEW for each.
    """

    category_id: int
    garments: np.ndarray
    place: np.ndarray
    partner: np.ndarray
    better: np.ndarray
    partner_distance: np.ndarray
    own_distance: np.ndarray
    verdict: tuple[str, ...]


def check_flip_map(
    annotations: AnnotationTable, partners: Sequence[np.ndarray] | None = None
) -> list[FlipCheck]:
    """Check each class's left/right pairs, and the landmarks that are their own partners.

    Args:
        annotations: of which garments with ``viewpoint`` 2 (frontal) count, or all where there is no such
            attribute, and boxes with an area.
        partners: per class int64 (K_c,), the local index each landmark has in the mirrored photo, its own
            inverse; None: the schema's.
    """
    schema = annotations.schema
    if partners is None:
        partners = [schema.local_flip(index) for index in range(schema.num_classes)]
    viewpoint = annotations.garment_attributes.get("viewpoint")
    used = (annotations.box[:, 2:] > annotations.box[:, :2]).all(axis=1)
    if viewpoint is not None:
        used &= viewpoint == _FRONTAL
    return [
        _check_class(annotations, np.flatnonzero(used & (annotations.category_id == index)), index, partner)
        for index, partner in enumerate(partners)
    ]


def _places(annotations: AnnotationTable, rows: np.ndarray, category_id: int) -> np.ndarray:
    """float32 (n, K_c, 2): in the boxes of those n garments of the class; NaN where not labelled."""
    local = np.arange(annotations.schema.num_class_keypoints(category_id))
    keypoints = annotations.keypoints[annotations.keypoint_offsets[rows][:, None] + local]
    low, high = annotations.box[rows, None, :2], annotations.box[rows, None, 2:]
    places = (keypoints[..., :2] - low) / (high - low)
    return np.where(keypoints[..., 2:] > 0, places, np.float32(np.nan))


def _check_class(
    annotations: AnnotationTable, rows: np.ndarray, category_id: int, partner: np.ndarray
) -> FlipCheck:
    places = _places(annotations, rows, category_id)
    garments = np.isfinite(places).all(axis=2).sum(axis=0)
    low, place, high = (_quantile(places, q) for q in (_WITHIN[0], 0.5, _WITHIN[1]))
    spread = (high - low) / 2
    enough = (garments >= MIN_GARMENTS) & (garments[partner] >= MIN_GARMENTS)
    error = _MEDIAN_ERROR * spread / np.sqrt(np.maximum(garments, 1))[:, None]
    pixel = _quantile(1 / (annotations.box[rows, 2:] - annotations.box[rows, :2]), 0.5)
    margin = 2 * ((STANDARD_ERRORS * error) ** 2 + (LOPSIDEDNESS * spread) ** 2 + pixel**2).sum(axis=1)
    better, close = _better_partners(place, partner, margin, enough)

    verdict = np.where(close, TOO_CLOSE, np.where(better != partner, CONTRADICTED, AGREES))
    mirrored = places * [-1, 1] + [1, 0]
    to_partner, to_itself = (
        _quantile(np.linalg.norm(mirrored - where, axis=2), 0.5) for where in (place[partner], place)
    )
    return FlipCheck(
        *(category_id, garments, place, partner, better, to_partner, to_itself),
        verdict=tuple(np.where(enough, verdict, TOO_FEW).tolist()),
    )


def _quantile(values: np.ndarray, q: float) -> np.ndarray:
    """(n, ...) -> float64 (...): over the rows, NaN left aside; NaN where there is nothing else."""
    columns = values.reshape(len(values), int(np.prod(values.shape[1:]))).T
    kept = [column[np.isfinite(column)] for column in columns]
    found = [np.quantile(column, q) if len(column) else np.nan for column in kept]
    return np.array(found, dtype=np.float64).reshape(values.shape[1:])


def _better_partners(
    place: np.ndarray, partner: np.ndarray, margin: np.ndarray, enough: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The partner of each landmark by geometry, and where two maps fit alike, in which case it keeps its own.

    Landmarks fall into groups that exchange partners among themselves; a group's verdict is one.
    """
    difference = place[:, None] - place[None]
    gain = difference[..., 0] ** 2 - difference[..., 1] ** 2  # of being partners; 0 on the diagonal
    known = np.flatnonzero(enough)
    best = _best_map(gain, known)
    exchange = networkx.Graph([(i, other) for i in known for other in (best[i], partner[i])])
    better, close = partner.copy(), np.zeros(len(place), dtype=bool)
    for nodes in networkx.connected_components(exchange):
        group = np.array(sorted(nodes))
        single = bool((best[group] == partner[group]).all())
        rival = group if single else best[group]  # a pair's is to swap nothing
        saved = gain[group, partner[group]].sum() - gain[group, rival].sum()
        if single:
            close[group] = len(group) > 1 and saved <= margin[group].sum()
        elif -saved > margin[group].sum():
            better[group] = best[group]
        else:
            close[group] = True
    return better, close


def _best_map(gain: np.ndarray, known: np.ndarray) -> np.ndarray:
    """int64 (K_c,): partners with the largest sum of gain (K_c, K_c) among the known landmarks."""
    best = np.arange(len(gain))
    edges = [(i, j, gain[i, j]) for i in known for j in known if i < j and gain[i, j] > 0]
    graph = networkx.Graph()
    graph.add_weighted_edges_from(edges)
    for i, j in networkx.max_weight_matching(graph):
        best[[i, j]] = j, i
    return best
