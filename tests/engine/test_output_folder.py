"""Trainings whose output folder has something in it already."""

import logging

import pytest

from kgdet_d2.config import load_config
from kgdet_d2.engine.output_folder import check_output_folder


@pytest.fixture
def cfg(tmp_path):
    return load_config("sample/kgdet_tiny.yaml", ["OUTPUT_DIR", str(tmp_path)])


def other(cfg, *opts):
    return load_config("sample/kgdet_tiny.yaml", ["OUTPUT_DIR", cfg.OUTPUT_DIR, *opts])


def write(tmp_path, cfg):
    (tmp_path / "config.yaml").write_text(cfg.dump())
    (tmp_path / "model_0000099.pth").touch()


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_empty_folder_and_one_that_is_not_there(cfg, overwrite, caplog):
    check_output_folder(cfg, resume=False, overwrite=overwrite)
    check_output_folder(other(cfg, "OUTPUT_DIR", "nowhere"), resume=False, overwrite=overwrite)
    assert not caplog.records


def test_nothing_to_resume_is_said(cfg, caplog):
    with caplog.at_level(logging.WARNING):
        check_output_folder(cfg, resume=True, overwrite=False)
    assert "--resume: there is no checkpoint in" in caplog.text


def test_checkpoints_are_not_overwritten_unasked(cfg, tmp_path):
    write(tmp_path, cfg)
    with pytest.raises(FileExistsError, match=r"model_0000099\.pth the last; .*--resume, .*--overwrite"):
        check_output_folder(cfg, resume=False, overwrite=False)
    check_output_folder(cfg, resume=False, overwrite=True)
    check_output_folder(cfg, resume=True, overwrite=False)


def test_another_model_is_not_gone_on_with(cfg, tmp_path):
    write(tmp_path, cfg)
    changed = other(cfg, "MODEL.KGDET.COLUMNS", "[9]", "MODEL.FPN.OUT_CHANNELS", "32")
    message = (
        r"--resume: .*config\.yaml is of another model: .*FPN\.OUT_CHANNELS \(expected 64, got 32\).*COLUMNS"
    )
    with pytest.raises(ValueError, match=message):
        check_output_folder(changed, resume=True, overwrite=False)


def test_what_may_differ(cfg, tmp_path):
    """Schedule, weights to start from, device, and keys of a later version."""
    write(tmp_path, cfg)
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("    SPARSE_CELLS: 0\n", ""))
    changed = other(
        cfg, "SOLVER.MAX_ITER", "5", "SOLVER.STEPS", "()", "MODEL.WEIGHTS", "x.pth", "MODEL.DEVICE", "cpu"
    )
    check_output_folder(changed, resume=True, overwrite=False)
