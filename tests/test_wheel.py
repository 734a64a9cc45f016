"""The wheel in an environment of its own: it holds all that runs, and the command finds it there."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD_SDIST = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"

WITHOUT_DETECTRON2 = """
import importlib.util
import sys
from importlib.abc import MetaPathFinder

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "detectron2" else find_spec(name, *rest)

class NoDetectron2(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "detectron2":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoDetectron2())
from kgdet_d2.cli import main
sys.exit(main())
"""


def run(*command, cwd, check=True):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr
    return done


def site_packages():
    return {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a source distribution of a copy of the sources; no network."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("kgdet_d2", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    run(sys.executable, "-c", BUILD_SDIST, str(folder), cwd=source)
    (sdist,) = folder.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    run(*pip, "--wheel-dir", str(folder), str(sdist), cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A virtual environment with the wheel, in front of the packages that are tested with."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "--quiet"]
    run(*pip, "--no-deps", "--no-index", "--no-compile", str(wheel), cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Of these folders .pth files are not read: an editable kgdet_d2 in one of them stays unseen.
    (packages / "tested.pth").write_text("".join(f"{path}\n" for path in site_packages()))
    return folder


@pytest.fixture
def empty(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_what_the_wheel_holds(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read("kgdet_d2-0.1.0.dist-info/entry_points.txt").decode()
    schemas = (ROOT / "kgdet_d2" / "schema").glob("*.yaml")
    configs = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml")}
    configs |= {f"schema/{path.name}" for path in schemas}
    assert len(configs) > 30
    assert {name.removeprefix("kgdet_d2/") for name in names if name.endswith(".yaml")} == configs
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "kgdet_d2").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert {"kgdet_d2/py.typed", "kgdet_d2/engine/report/page.html"} <= names
    assert "kgdet = kgdet_d2.cli:main" in entry_points


def test_the_installed_package_is_the_one_that_runs(environment, empty):
    """And importing it registers its models and datasets."""
    code = (
        "import kgdet_d2; from detectron2.data import DatasetCatalog; "
        "from detectron2.modeling import META_ARCH_REGISTRY; "
        "print(kgdet_d2.__file__, kgdet_d2.__version__, kgdet_d2.load_config.__module__, "
        "'KGDet' in META_ARCH_REGISTRY, 'deepfashion2_train' in DatasetCatalog)"
    )
    file, *rest = run(environment / "bin/python", "-c", code, cwd=empty).stdout.split()
    assert Path(file).is_relative_to(environment)
    assert rest == ["0.1.0", "kgdet_d2.config", "True", "True"]


def test_help_lists_the_commands(environment, empty):
    printed = run(environment / "bin/kgdet", "--help", cwd=empty).stdout
    for command in "train prepare check draw evaluate errors analyze convert compare".split():
        assert f"\n  {command} " in printed


def test_analyze_counts_a_config_that_came_with_the_wheel(environment, empty):
    run(environment / "bin/kgdet", "analyze", "--config-file", "kgdet_R50.yaml", "--json", "r50", cwd=empty)
    built = json.loads((empty / "r50").read_text())["sums"]["as built"]
    assert (built["parameters"], built["multiply_adds"]) == (52_475_415, 112_371_416_000)
    assert (built["convolution"], built["deformable"]) == (90_613_464_000, 21_757_952_000)


def test_without_detectron2_a_line_says_how_to_get_it(environment, empty):
    (empty / "start.py").write_text(WITHOUT_DETECTRON2)
    arguments = ["analyze", "--config-file", "kgdet_R50.yaml"]
    done = run(environment / "bin/python", "start.py", *arguments, cwd=empty, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: Detectron2 is not installed") and "kgdet install-detectron2" in line
