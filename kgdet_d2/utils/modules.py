"""Modules of the user's own, which register datasets when they are imported."""

import os
import sys
from collections.abc import Iterable
from importlib import import_module


def import_modules(names: Iterable[str], where: str) -> None:
    """Import modules, which may stand in the working directory.

    Args:
        names: of the modules.
        where: the key or option that names them, for the error.

    Raises:
        ValueError: there is no such module, or one that it imports is missing.
    """
    for name in names:
        if os.getcwd() not in sys.path:
            sys.path.append(
                os.getcwd()
            )  # where Python itself looks for a script's modules, and kgdet would not
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise ValueError(f"{where}: {name!r}: {error}") from error
