"""Fixtures that tests of several parts share, and which tests can run here."""

import pytest

from tests.helpers.release_recordings import FULL

pytest_plugins = [
    "tests.helpers.annotations",
    "tests.helpers.campaign",
    "tests.helpers.loggers",
    "tests.helpers.scenes",
    "tests.helpers.registered",
]


def pytest_collection_modifyitems(items):
    if FULL.is_dir():
        return
    for item in items:
        if item.get_closest_marker("recordings"):
            item.add_marker(pytest.mark.skip(reason="the full recordings are not here"))
