"""Every code block of README and of the guides runs, one after another, in a folder of a user's."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from kgdet_d2.cli import main
from kgdet_d2.figure_page import write_jpeg
from kgdet_d2.modeling.meta_arch import KGDet
from kgdet_d2.synthetic import generate_photo
from tests.helpers.untrained import save_untrained

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/USE.md", "docs/OWN_DATA.md")
LANGUAGES = {"sh", "python", "text", "yaml", "bibtex"}
# Lines of shell blocks that are not run here, and why.
NOT_RUN = {
    "make ": "this is one of its tests; the continuous integration calls it",
    "pip install ": "make setup does it",
    "python tools/install_detectron2.py": "make setup does it",
    "kgdet fetch-backbone ": "there is no network",
}


def blocks(page):
    """Yield language, code and first line of a page's code blocks."""
    text = (ROOT / page).read_text()
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        yield match[1], match[2], text.count("\n", 0, match.start()) + 2


def runnable():
    for page in PAGES:
        for language, code, line in blocks(page):
            if language in ("sh", "python"):
                yield pytest.param(page, language, code, line, id=f"{page}:{line}")


@pytest.mark.parametrize("page", PAGES)
def test_blocks_say_what_they_are(page):
    unknown = [f"{page}:{line}" for language, _, line in blocks(page) if language not in LANGUAGES]
    assert not unknown


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights, photos, a film, and two data sets in DeepFashion2's tree; the scripts beside them."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("configs", "demo.py", "train_net.py", "tools"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "output/demo").mkdir(parents=True)
    shutil.copy(save_untrained(folder), folder / "model_final.pth")
    shutil.copy(folder / "model.pth", folder / "output/demo/model_final.pth")
    write_release(folder)
    for index in range(3):
        write_jpeg(folder / f"photos/shop {index % 2}/{index}.jpg", generate_photo(index, size=96).image)
        write_jpeg(folder / f"docs/{index}.jpg", generate_photo(index, size=96).image)
    shutil.copy(folder / "docs/0.jpg", folder / "photo.jpg")
    shutil.copy(folder / "docs/1.jpg", folder / "photos/1.jpg")
    write_film(folder / "film.mp4")
    write_datasets(folder / "datasets")
    (folder / "datasets/make_own_example.py").symlink_to(ROOT / "datasets/make_own_example.py")
    return folder


def write_release(folder):
    """Write a file such as the authors', with random weights."""
    ours = save_untrained(
        folder, "configs/kgdet_R50.yaml", KGDet, ["MODEL.WEIGHTS", "", "MODEL.FPN.FULL", "True"]
    )
    assert main(["convert", str(ours), str(folder / "kgdet_r50.pth"), "--reverse"]) == 0
    ours.unlink()


def write_film(path):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 5.0, (64, 96))
    for grey in (60, 120):
        writer.write(np.full((96, 64, 3), grey, np.uint8))
    writer.release()


def write_datasets(root):
    words = ["--root", str(root / "synthfashion"), "--train", "8", "--validation", "4", "--size", "96"]
    subprocess.run([sys.executable, str(ROOT / "datasets/make_synthetic.py"), *words], check=True)
    shutil.copytree(root / "synthfashion", root / "deepfashion2")
    assert main(["prepare", "deepfashion2", "--root", str(root / "synthfashion"), "--workers", "1"]) == 0


@pytest.fixture(scope="module")
def environment(folder, tmp_path_factory):
    """The shell's, where ``kgdet`` is the one for small machines."""
    programs = tmp_path_factory.mktemp("bin")
    kgdet = programs / "kgdet"
    kgdet.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.helpers.page_kgdet "$@"\n')
    kgdet.chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "DETECTRON2_DATASETS": str(folder / "datasets"),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("page", "language", "code", "line"), runnable())
def test_the_block_runs(page, language, code, line, folder, environment):
    if language == "python":
        command = [sys.executable, "-c", code]
    else:
        lines = [each for each in code.splitlines(keepends=True) if not each.startswith(tuple(NOT_RUN))]
        command = ["bash", "-euo", "pipefail", "-c", "".join(lines)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{page}:{line}\n{code}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert "Traceback" not in done.stderr, done.stderr
