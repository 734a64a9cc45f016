"""A check of a flip map (left and right landmarks) against the annotated positions.

A mirrored garment is a garment again, so its landmarks must lie about where the class's landmarks lie, each
at its partner's position. Let (x_i, y_i) be landmark i's median position in the box, 0..1, and p_i its
partner. With the mirror at x = a, the map's error is

    sum_i [(2 a - x_i - x_p_i)^2 + (y_i - y_p_i)^2] = constant - sum_i [(x_i - x_p_i)^2 - (y_i - y_p_i)^2]

since every x_i occurs once as a partner's. The constant holds the mirror's position: it does not matter that
photos cut garments off at one side. The best map is a maximum-weight matching, in which a landmark without a
match is its own partner. Where it differs from the given map, the latter is contradicted if its error is
larger by more than the landmarks' uncertainty, a pixel and the asymmetry of people explain.

The check is geometry alone. It cannot detect a wrong pair among landmarks that lie close together ("too close
to tell"), and it would report wrong pairs in a class that is asymmetric in most of its photos and to the same
side. Synthetic garments (:mod:`kgdet_d2.synthetic`) follow this project's own pairs: that they agree
shows that the arithmetic is right. Only real annotations are evidence for a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import networkx
import numpy as np

from kgdet_d2.structures.annotations import AnnotationTable

AGREES, CONTRADICTED = "agrees", "contradicted"
TOO_CLOSE, TOO_FEW = "too close to tell", "too few garments to tell"
OPEN = "left open"  # by the schema
MIN_GARMENTS = 30  # in which a landmark is labelled
STANDARD_ERRORS = 3  # by which a landmark's median position may be off
ASYMMETRY = 0.2  # of a landmark's spread: how far positions may be from mirror images of one another

_FRONTAL = 2  # viewpoint
_ONE_SIGMA = (0.1587, 0.8413)  # quantiles one standard deviation from a normal distribution's median
_MEDIAN_ERROR = 1.2533  # standard error of its median, in those of its mean


@dataclass(frozen=True, eq=False)
class FlipCheck:
    """The verdict on each of the K_c landmarks of one class; positions are x, y in the box, 0..1.

    Attributes:
        category_id: the class index.
        garments: int64 (K_c,), frontal garments in which the landmark is labelled.
        median_xy: float64 (K_c, 2), its median position; NaN where it is never labelled.
        partner: int64 (K_c,), local index, by the map under test; its own where the schema leaves it open.
        suggested_partner: int64 (K_c,), the partner by geometry; differs from ``partner`` where the map is
            contradicted, or where the schema could state a pair.
        partner_distance: float64 (K_c,), median distance of the mirrored landmark to its partner's position.
        own_distance: float64 (K_c,), median distance of the mirrored landmark to its own position.
        verdict: one of AGREES, CONTRADICTED, TOO_CLOSE, TOO_FEW for each; OPEN or TOO_FEW in a class whose
            pairs the schema leaves open.
    """

    category_id: int
    garments: np.ndarray
    median_xy: np.ndarray
    partner: np.ndarray
    suggested_partner: np.ndarray
    partner_distance: np.ndarray
    own_distance: np.ndarray
    verdict: tuple[str, ...]


def check_flip_map(
    annotations: AnnotationTable, partners: Sequence[np.ndarray] | None = None
) -> list[FlipCheck]:
    """Check each class's left/right pairs, and the landmarks that are their own partners.

    Args:
        annotations: of which garments with ``viewpoint`` 2 (frontal) count, or all where there is no such
            attribute, with boxes that have an area; crowds do not.
        partners: per class int64 (K_c,), the local index each landmark has in the mirrored image, its own
            inverse; None: the schema's.
    """
    schema = annotations.schema
    is_open = [False] * schema.num_classes
    if partners is None:
        partners = [schema.local_flip(index) for index in range(schema.num_classes)]
        is_open = [name in schema.unpaired_classes for name in schema.class_names]
    used = annotations.has_area & ~annotations.iscrowd & is_frontal(annotations)
    checks = []
    for index, partner in enumerate(partners):
        rows = np.flatnonzero(used & (annotations.category_id == index))
        check = _check_class(annotations, rows, index, partner)
        if is_open[index]:
            verdict = tuple(each if each == TOO_FEW else OPEN for each in check.verdict)
            check = replace(check, verdict=verdict)
        checks.append(check)
    return checks


def is_frontal(annotations: AnnotationTable) -> np.ndarray:
    """Return bool (G,), whether the garment's ``viewpoint`` is frontal; all without such an attribute."""
    viewpoint = annotations.garment_attributes.get("viewpoint")
    if viewpoint is None:
        return np.ones(annotations.num_garments, bool)
    return viewpoint == _FRONTAL


def positions_in_boxes(annotations: AnnotationTable, rows: np.ndarray, category_id: int) -> np.ndarray:
    """Return float32 (n, K_c, 2), x, y in the boxes of n garments of the class; NaN where not labelled."""
    local = np.arange(annotations.schema.num_class_keypoints(category_id))
    keypoints = annotations.keypoints[annotations.keypoint_offsets[rows][:, None] + local]
    low, high = annotations.box[rows, None, :2], annotations.box[rows, None, 2:]
    positions = (keypoints[..., :2] - low) / (high - low)
    return np.where(keypoints[..., 2:] > 0, positions, np.float32(np.nan))


def _check_class(
    annotations: AnnotationTable, rows: np.ndarray, category_id: int, partner: np.ndarray
) -> FlipCheck:
    positions = positions_in_boxes(annotations, rows, category_id)  # (n, K_c, 2)
    garments = np.isfinite(positions).all(axis=2).sum(axis=0)  # (K_c,)
    median_xy = _quantile(positions, 0.5)  # (K_c, 2)
    low, high = (_quantile(positions, q) for q in _ONE_SIGMA)
    spread = (high - low) / 2
    enough = (garments >= MIN_GARMENTS) & (garments[partner] >= MIN_GARMENTS)
    error = _MEDIAN_ERROR * spread / np.sqrt(np.maximum(garments, 1))[:, None]
    pixel = _quantile(1 / (annotations.box[rows, 2:] - annotations.box[rows, :2]), 0.5)
    margin = 2 * ((STANDARD_ERRORS * error) ** 2 + (ASYMMETRY * spread) ** 2 + pixel**2).sum(axis=1)
    suggested, close = _suggest_partners(median_xy, partner, margin, enough)

    verdict = np.where(close, TOO_CLOSE, np.where(suggested != partner, CONTRADICTED, AGREES))
    mirrored = positions * [-1, 1] + [1, 0]
    return FlipCheck(
        category_id=category_id,
        garments=garments,
        median_xy=median_xy,
        partner=partner,
        suggested_partner=suggested,
        partner_distance=_quantile(np.linalg.norm(mirrored - median_xy[partner], axis=2), 0.5),
        own_distance=_quantile(np.linalg.norm(mirrored - median_xy, axis=2), 0.5),
        verdict=tuple(np.where(enough, verdict, TOO_FEW).tolist()),
    )


def _quantile(values: np.ndarray, q: float) -> np.ndarray:
    """Return the quantile over the rows of (n, ...), float64 (...), without NaN; NaN where all are NaN."""
    columns = values.reshape(len(values), int(np.prod(values.shape[1:]))).T
    quantiles = np.full(len(columns), np.nan)
    for index, column in enumerate(columns):
        finite = column[np.isfinite(column)]
        if len(finite):
            quantiles[index] = np.quantile(finite, q)
    return quantiles.reshape(values.shape[1:])


def _suggest_partners(
    median_xy: np.ndarray, partner: np.ndarray, margin: np.ndarray, enough: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the partner of each landmark by geometry.

    Landmarks fall into groups that exchange partners among themselves; a group has one verdict.

    Args:
        median_xy: float64 (K_c, 2).
        partner: int64 (K_c,), by the map under test.
        margin: float64 (K_c,), the difference of errors that chance may explain.
        enough: bool (K_c,), labelled often enough.

    Returns:
        int64 (K_c,), the partners; and bool (K_c,), where two maps fit alike, in which case a landmark keeps
        its partner.
    """
    difference = median_xy[:, None] - median_xy[None]
    gain = difference[..., 0] ** 2 - difference[..., 1] ** 2  # of being partners; 0 on the diagonal
    known = np.flatnonzero(enough)
    best = _best_map(gain, known)
    exchange = networkx.Graph()
    for index in known:
        exchange.add_edges_from([(index, best[index]), (index, partner[index])])
    suggested, close = partner.copy(), np.zeros(len(median_xy), dtype=bool)
    for nodes in networkx.connected_components(exchange):
        group = np.array(sorted(nodes))
        single = bool((best[group] == partner[group]).all())
        rival = group if single else best[group]  # a pair's is to swap nothing
        saved = gain[group, partner[group]].sum() - gain[group, rival].sum()
        if single:
            close[group] = len(group) > 1 and saved <= margin[group].sum()
        elif -saved > margin[group].sum():
            suggested[group] = best[group]
        else:
            close[group] = True
    return suggested, close


def _best_map(gain: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return int64 (K_c,), the partners with the largest sum of gain (K_c, K_c) among known landmarks."""
    best = np.arange(len(gain))
    graph = networkx.Graph()
    for i, j in combinations(known, 2):
        if gain[i, j] > 0:
            graph.add_edge(i, j, weight=gain[i, j])
    for i, j in networkx.max_weight_matching(graph):
        best[[i, j]] = j, i
    return best
