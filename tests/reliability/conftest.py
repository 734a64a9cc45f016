"""What several parts of the campaign work on."""

import subprocess

import pytest

from tests.helpers.trainings import make_sample
from tests.helpers.untrained import save_untrained


@pytest.fixture(scope="session")
def datasets_root(tmp_path_factory):
    """A folder with the data set ``synthfashion`` of 14 small photos."""
    root = tmp_path_factory.mktemp("datasets")
    make_sample(root)
    return root


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A model of random weights that finds three garments on each photo."""
    return save_untrained(tmp_path_factory.mktemp("weights"), opts=["TEST.DETECTIONS_PER_IMAGE", "3"])


@pytest.fixture
def disk(tmp_path):
    """Mounts a disk of some kilobytes, anew each time, and returns its folder; skips where it may not."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(size):
        release()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    def release():
        while mounted:
            subprocess.run(["umount", "-l", str(mounted.pop())], check=True)

    try:
        yield mount
    finally:
        release()
