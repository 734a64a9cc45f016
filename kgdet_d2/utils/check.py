"""Checks of values."""

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
