"""Checks of values."""

import re
from reprlib import repr as shortened
from typing import Any

import numpy as np


def check(condition: bool | np.bool, message: str) -> None:
    """Check a condition.

    Args:
        condition: what must hold.
        message: the error's text, "name: expected ..., got ...".

    Raises:
        ValueError: the condition does not hold.
    """
    if not condition:
        raise ValueError(message)


def whole_number(value: Any) -> int:
    """Return a whole number of 64 bits that is written as an int, a float ``3.0`` or a str ``"3"``.

    Args:
        value: one of these, numpy's numbers and tensors of one number among them; a bool is none.

    Raises:
        ValueError: something else.
    """
    if hasattr(value, "item"):
        value = value.item()
    number = value
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,19}(\.0*)?\s*", value):
        number = int(value.split(".")[0])
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    check(type(number) is int, f"expected a whole number, got {shortened(value)}")
    check(-(2**63) <= number < 2**63, f"expected 64 bits, got {shortened(value)}")
    return number
