"""The package itself: its public names, the configs that come with it, and imports without Detectron2."""

import subprocess
import sys

import pytest

import kgdet_d2
from kgdet_d2 import config
from kgdet_d2.config_files import CONFIGS, find_config


def test_public_names():
    assert kgdet_d2.load_config is config.load_config
    assert kgdet_d2.add_kgdet_config is config.add_kgdet_config
    assert kgdet_d2.__version__
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = kgdet_d2.no_such_name


def test_without_detectron2_the_package_can_be_imported_and_its_names_say_how_to_get_it(tmp_path):
    code = (
        "import sys, importlib.util as util; find = util.find_spec; "
        "util.find_spec = lambda name, *rest: None if name == 'detectron2' else find(name, *rest); "
        "import kgdet_d2; assert 'torch' not in sys.modules; kgdet_d2.load_config"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        "ImportError: Detectron2 is not installed" in done.stderr
        and "kgdet install-detectron2" in done.stderr
    )


def test_a_config_file_that_is_there_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("kgdet_R50.yaml") == CONFIGS / "kgdet_R50.yaml"
    assert find_config("sample/kgdet_tiny.yaml") == CONFIGS / "sample/kgdet_tiny.yaml"
    (tmp_path / "kgdet_R50.yaml").touch()
    assert find_config("kgdet_R50.yaml").resolve() == tmp_path / "kgdet_R50.yaml"
    with pytest.raises(FileNotFoundError, match=r"config file 'nowhere.yaml' does not exist"):
        find_config("nowhere.yaml")


def test_configs_inherit_from_one_another_where_they_are_installed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kgdet_d2.load_config("sample/kgdet_tiny.yaml", []).MODEL.META_ARCHITECTURE == "KGDet"
