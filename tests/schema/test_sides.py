"""Left and right in names of landmarks, in the spellings that people use."""

import pytest

from kgdet_d2.schema.sides import certain_pairs, pairs_by_name


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("cuff_left", "cuff_right"),
        ("Left_cuff", "Right_cuff"),
        ("left cuff", "right cuff"),
        ("leftCuff", "rightCuff"),
        ("cuffLeft", "cuffRight"),
        ("LEFT-CUFF", "RIGHT-CUFF"),
        ("L_cuff", "R_cuff"),
        ("LCuff", "RCuff"),
        ("cuff_l", "cuff_r"),
        ("cuff.L", "cuff.R"),
        ("cuff (left)", "cuff (right)"),
        ("cuff 2 left outer", "cuff 2 right outer"),
        ("Ärmel_l", "Ärmel_r"),
        ("l1", "r1"),
        ("left", "right"),
    ],
)
def test_spellings(left, right):
    assert pairs_by_name([right, "collar", left]) == (((0, 2),), [])


@pytest.mark.parametrize("name", ["leftover", "bright", "lapel", "roll", "hem_centre", "12", "XL"])
def test_letters_within_words_are_no_sides(name):
    assert pairs_by_name([name]) == ((), [])


def test_a_side_without_partner_is_named():
    names = ["hem_left", "hem_right", "pocket_left", "collar"]
    assert pairs_by_name(names) == (((0, 1),), ["pocket_left"])
    assert certain_pairs(names) is None


def test_two_spellings_of_one_name_are_no_pair_of_both():
    pairs, alone = pairs_by_name(["cuff_left", "cuff_l", "cuff_right"])
    assert pairs == ((0, 2),) and alone == ["cuff_l"]


def test_pairs_are_certain_where_there_is_nothing_to_pair():
    assert certain_pairs(()) == certain_pairs(("hem",)) == ()
    assert certain_pairs(("1", "2")) is None
