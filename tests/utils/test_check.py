"""Whole numbers in the forms that files and arrays have them."""

import math

import numpy as np
import pytest
import torch

from kgdet_d2.utils.check import whole_number


@pytest.mark.parametrize(
    "value", [3, 3.0, "3", "3.0", "3.", " +3 ", "03", np.int8(3), np.float32(3), np.array(3), torch.tensor(3)]
)
def test_whole_numbers(value):
    number = whole_number(value)
    assert number == 3 and type(number) is int
    assert whole_number(-3.0) == whole_number("-3") == -3


@pytest.mark.parametrize(
    "value",
    [3.5, "3.5", "", "three", "1e3", "1_000", "٣", None, True, np.True_, math.nan, math.inf, [3], {}],
    ids=repr,
)
def test_other_values(value):
    with pytest.raises(ValueError, match="expected a whole number, got "):
        whole_number(value)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 1e30, "9223372036854775808"])
def test_numbers_beyond_64_bits(value):
    with pytest.raises(ValueError, match="expected 64 bits, got "):
        whole_number(value)


def test_an_array_of_several_numbers():
    with pytest.raises(ValueError):
        whole_number(np.arange(2))
