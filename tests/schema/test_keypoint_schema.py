"""Invariants of the two schemas, and contradictions in others."""

import dataclasses

import numpy as np
import pytest

from kgdet_d2.schema import DEEPFASHION2, FLD

SCHEMAS = pytest.mark.parametrize("schema", [DEEPFASHION2, FLD], ids=lambda schema: schema.name)


def test_deepfashion2_slots_tile_the_network_s_landmarks():
    slots = [slot for slots in DEEPFASHION2.slots for slot in slots]
    assert slots == list(range(294))
    counts = [DEEPFASHION2.num_class_keypoints(index) for index in range(13)]
    assert counts == [25, 33, 31, 39, 15, 15, 10, 14, 8, 29, 37, 19, 19]


@SCHEMAS
def test_flip_is_an_involution_inside_each_class(schema):
    assert (schema.flip_map[schema.flip_map] == np.arange(schema.num_keypoints)).all()
    for index, slots in enumerate(schema.slots):
        local = schema.local_flip(index)
        assert (local[local] == np.arange(len(local))).all()
        assert set(schema.flip_map[list(slots)]) == set(slots)
        assert (np.array(slots)[local] == schema.flip_map[list(slots)]).all()


def test_short_sleeve_outwear_pairs_neckline_corners_and_front_edges():
    """Landmarks 2-6 and 4-26 (from 1): the table that circulates exchanges them."""
    one_based = {i + 1: int(j) + 1 for i, j in enumerate(DEEPFASHION2.local_flip(2))}
    assert {one_based[2], one_based[3], one_based[4]} == {6, 5, 26}
    assert one_based[2] == 6 and one_based[4] == 26
    assert (one_based[16], one_based[27], one_based[28]) == (29, 30, 31)


def test_sigmas_are_symmetric_but_for_the_known_pair():
    sigmas = np.array(DEEPFASHION2.sigmas)
    asymmetric = np.flatnonzero(sigmas != sigmas[DEEPFASHION2.flip_map])
    first = DEEPFASHION2.slots[10][0]  # long sleeve dress
    assert asymmetric.tolist() == [first + 14, first + 28]
    assert sigmas[asymmetric].tolist() == [0.0455, 0.0486]


def test_fld_upper_pairs():
    assert FLD.local_flip(0).tolist() == [1, 0, 3, 2, 5, 4]
    assert FLD.slots == ((0, 1, 2, 3, 6, 7), (4, 5, 6, 7), (0, 1, 2, 3, 4, 5, 6, 7))


@SCHEMAS
def test_skeleton_joins_all_landmarks_and_is_symmetric(schema):
    for index, edges in enumerate(schema.skeleton):
        assert {i for edge in edges for i in edge} == set(range(schema.num_class_keypoints(index)))
        flip = schema.local_flip(index)
        assert {frozenset(edge) for edge in edges} == {frozenset(flip[list(edge)].tolist()) for edge in edges}


@SCHEMAS
def test_gather_undoes_scatter(schema):
    rng = np.random.default_rng(0)
    for index in range(schema.num_classes):
        keypoints = rng.random((schema.num_class_keypoints(index), 3))
        scattered = schema.scatter(keypoints, index)
        assert scattered.shape == (schema.num_keypoints, 3)
        assert np.count_nonzero(scattered.any(axis=1)) == len(keypoints)
        assert (schema.gather(scattered, index) == keypoints).all()


def test_scatter_refuses_another_class_s_landmarks():
    with pytest.raises(ValueError, match=r"'skirt': expected shape \(8, 3\), got \(25, 3\)"):
        DEEPFASHION2.scatter(np.zeros((25, 3)), 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmas": FLD.sigmas[:-1]}, "slots do not cover 0..6"),
        ({"sigmas": (0.0, *FLD.sigmas[1:])}, "sigma is not positive"),
        ({"slots": FLD.slots[:2]}, "slots has 2 classes"),
        ({"slots": (FLD.slots[0][:-1], *FLD.slots[1:])}, "5 slots, 6 names"),
        ({"class_names": ("upper", "upper", "full")}, "class name occurs twice"),
        ({"skeleton": (((0, 6),), *FLD.skeleton[1:])}, r"bad edge \(0, 6\)"),
        ({"flip_pairs": (((0, 1), (1, 2)), *FLD.flip_pairs[1:])}, "more than one mirror image of"),
        ({"flip_pairs": (((0, 9),), *FLD.flip_pairs[1:])}, r"bad edge \(0, 9\)"),
        ({"flip_pairs": (((0, 2), (1, 3), (4, 5)), *FLD.flip_pairs[1:])}, "other pairs of left and right"),
        ({"kind_names": (("a",), *FLD.kind_names[1:])}, "a kind for each landmark"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(FLD, **change)


@SCHEMAS
def test_slots_of_one_landmark_name_are_of_one_kind(schema):
    names = {}
    for class_slots, class_names in zip(schema.slots, schema.keypoint_names, strict=True):
        for slot, name in zip(class_slots, class_names, strict=True):
            names.setdefault(int(schema.kinds[slot]), set()).add(name)
    assert sorted(names) == list(range(len(names)))
    assert all(len(of_kind) == 1 for of_kind in names.values())
    assert len({name for of_kind in names.values() for name in of_kind}) == len(names)


def test_deepfashion2_has_65_kinds_of_landmarks():
    assert DEEPFASHION2.kinds.max() + 1 == 65
    left, top = DEEPFASHION2.keypoint_names[0].index("cuff_outer_left"), DEEPFASHION2.slots[0]
    dress = DEEPFASHION2.slots[10][DEEPFASHION2.keypoint_names[10].index("cuff_outer_left")]
    assert DEEPFASHION2.kinds[top[left]] == DEEPFASHION2.kinds[dress]


@SCHEMAS
def test_padded_slots_are_each_class_s_own(schema):
    assert schema.padded_slots.shape == (schema.num_classes, max(map(len, schema.slots)))
    for padded, slots in zip(schema.padded_slots.tolist(), schema.slots, strict=True):
        assert padded == [*slots, *[-1] * (len(padded) - len(slots))]
