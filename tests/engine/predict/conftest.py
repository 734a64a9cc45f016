"""Photos and a model of random weights, for ``kgdet predict``."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.predict_runs import ALL, predict
from tests.helpers.untrained import save_untrained


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    return str(save_untrained(tmp_path_factory.mktemp("weights"), opts=["TEST.DETECTIONS_PER_IMAGE", "3"]))


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Seven photos of several shapes in two folders, and one that cannot be read."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    sizes = {"a/1.jpg": (90, 60), "a/2.jpg": (60, 90), "a/3.png": (70, 70), "b/1.jpg": (90, 60)}
    sizes |= {"b/2.jpg": (64, 90), "b/3.jpg": (90, 64), "b/4.jpg": (80, 60)}
    for name, size in sizes.items():
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "b/9.jpg").write_bytes((folder / "b/1.jpg").read_bytes()[:300])
    return folder


@pytest.fixture(scope="session")
def whole(photos, weights, tmp_path_factory):
    """The output of a run that was not broken off, with everything in it."""
    output = tmp_path_factory.mktemp("whole") / "found"
    assert predict(output, weights, photos, "--formats", *ALL) == 1
    return output
