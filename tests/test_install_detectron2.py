"""``kgdet install-detectron2`` without network, and what its edits are for, on the Detectron2 at hand."""

import base64
import hashlib
import importlib.metadata
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from kgdet_d2 import cli
from kgdet_d2 import install_detectron2 as installer

SCRIPT = Path(__file__).parents[1] / "tools" / "install_detectron2.py"
EDIT = installer.Edit("a.py", "reasons change", "old", "new")


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def source_fitting_all_edits() -> dict[str, bytes]:
    """The smallest tree in the source's layout that holds the old text of every edit as often as expected."""
    tree = {"LICENSE": b"the licence\n"}
    for folder in installer.FOLDERS:
        tree[f"{folder}/__init__.py"] = b""
    for edit in installer.EDITS:
        name = f"detectron2/{edit.file}"
        tree[name] = tree.get(name, b"") + (edit.old + "\n").encode() * edit.count
    return tree


def run_script(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", str(SCRIPT), *arguments]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_edit_replaces_and_says_so_in_the_file():
    files = {"detectron2/a.py": b"an old word\n", "detectron2/b.py": b"an old word\n"}
    edited = installer.apply_edits(files, (EDIT,))
    assert edited["detectron2/a.py"].startswith(b"an new word\n# Changed from Detectron2 v0.6")
    assert b"reasons change" in edited["detectron2/a.py"]
    assert edited["detectron2/b.py"] == files["detectron2/b.py"]
    assert files["detectron2/a.py"] == b"an old word\n", "the input must stay as it was"


@pytest.mark.parametrize("text, found", [(b"nothing\n", 0), (b"old, old\n", 2)])
def test_edit_whose_old_text_is_not_there_as_expected_names_the_file(text, found):
    with pytest.raises(
        installer.InstallError, match=rf"detectron2/a\.py.*reasons change.*1 time.*found {found}"
    ):
        installer.apply_edits({"detectron2/a.py": text}, (EDIT,))


def test_edit_of_a_missing_file_names_it():
    with pytest.raises(installer.InstallError, match=r"detectron2/a\.py: not in the source"):
        installer.apply_edits({}, (EDIT,))


def test_missing_source_folder_is_named():
    with pytest.raises(installer.InstallError, match="no folder detectron2"):
        installer.select_files({"LICENSE": b""})


def test_wrong_sha256_says_expected_and_found(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"data")
    found = hashlib.sha256(b"data").hexdigest()
    installer.check_sha256(path, found)
    with pytest.raises(installer.InstallError, match=f"expected sha256 0000.*found {found}"):
        installer.check_sha256(path, "0" * 64)
    with pytest.raises(installer.InstallError, match="no such file"):
        installer.check_sha256(tmp_path / "absent", found)


@pytest.mark.parametrize("name", ["top/../../evil.py", "/evil.py"])
def test_tar_member_outside_its_folder_is_refused(tmp_path, name):
    with pytest.raises(installer.InstallError, match=r"refused.*evil\.py"):
        installer.read_sdist(write_tar(tmp_path / "s.tar.gz", {name: b""}))


def test_tar_link_is_refused(tmp_path):
    with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("top/link")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(member)
    with pytest.raises(installer.InstallError, match=r"refused.*top/link"):
        installer.read_sdist(tmp_path / "s.tar.gz")


def test_from_sdist_to_wheel(tmp_path, monkeypatch):
    tree = {f"top/{name}": data for name, data in source_fitting_all_edits().items()}
    sdist = write_tar(tmp_path / "s.tar.gz", {**tree, "top/tools/left_out.py": b""})
    monkeypatch.setattr(installer, "SDIST_SHA256", hashlib.sha256(sdist.read_bytes()).hexdigest())
    assert cli.main(["install-detectron2", "--sdist", str(sdist), "--wheel-dir", str(tmp_path / "dist")]) == 0

    (wheel,) = (tmp_path / "dist").iterdir()  # and nothing else is left there
    assert wheel.name == "detectron2-0.6+pure-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "detectron2/projects/point_rend/__init__.py" in names
    assert "detectron2-0.6+pure.dist-info/LICENSE" in names
    assert not any("left_out" in name for name in names)


def test_refused_source_leaves_nothing_behind(tmp_path, capsys):
    sdist = write_tar(tmp_path / "s.tar.gz", {"top/LICENSE": b""})
    arguments = ["--sdist", str(sdist), "--wheel-dir", str(tmp_path / "dist")]
    assert cli.main(["install-detectron2", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {sdist}: expected sha256 ")
    assert not (tmp_path / "dist").exists()


def test_wheel_is_reproducible_and_its_record_is_true(tmp_path):
    files = {"detectron2/b.py": b"b = 1\n", "detectron2/__init__.py": b""}
    wheel = installer.build_wheel(files, b"licence", tmp_path / "1")
    again = installer.build_wheel(dict(reversed(files.items())), b"licence", tmp_path / "2")
    assert wheel.read_bytes() == again.read_bytes()

    record_name = "detectron2-0.6+pure.dist-info/RECORD"
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    rows = [line.split(",") for line in contents[record_name].decode().splitlines()]
    assert sorted(name for name, _, _ in rows) == sorted(contents)
    for name, digest, size in rows:
        if name == record_name:
            assert (digest, size) == ("", "")
            continue
        expected = base64.urlsafe_b64encode(hashlib.sha256(contents[name]).digest()).decode().rstrip("=")
        assert (digest, int(size)) == (f"sha256={expected}", len(contents[name]))


def test_pip_installs_the_wheel(tmp_path):
    wheel = installer.build_wheel({"detectron2/__init__.py": b""}, b"licence", tmp_path)
    target = tmp_path / "target"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, stdin=subprocess.DEVNULL)
    (distribution,) = importlib.metadata.distributions(path=[str(target)])
    assert (distribution.name, distribution.version) == ("detectron2", installer.VERSION)
    assert tuple(distribution.requires) == installer.REQUIRES
    assert (target / "detectron2" / "__init__.py").is_file()


def test_importable_detectron2_is_kept(tmp_path):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("__version__ = '9.9'\n")
    (tmp_path / "detectron2" / "engine.py").touch()
    result = run_script(PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"Keeping detectron2 9.9 in {tmp_path / 'detectron2'}.\n"


def test_detectron2_that_does_not_import_is_not_kept_silently(tmp_path):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("import no_such_module\n")
    result = run_script(PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert "no_such_module" in result.stderr and "--force" in result.stderr


def test_failed_download_says_what_to_do(tmp_path):
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    result = run_script("--wheel-dir", str(tmp_path / "dist"), **nowhere)
    assert result.returncode == 1
    assert "--sdist" in result.stderr and installer.SDIST in result.stderr
    assert not (tmp_path / "dist").exists()


# What the less visible edits are for.


def test_scheduler_state_is_saved():
    torch = pytest.importorskip("torch")
    hooks = pytest.importorskip("detectron2.engine.hooks")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
    assert hooks.LRScheduler(optimizer, scheduler).state_dict()["last_epoch"] == 0


def test_mixed_precision_step_on_cpu():
    torch = pytest.importorskip("torch")
    engine = pytest.importorskip("detectron2.engine")
    events = pytest.importorskip("detectron2.utils.events")

    class Model(torch.nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            assert y.dtype == torch.bfloat16
            return {"loss": y.float().square().mean()}

    model = Model(4, 2)
    before = model.weight.detach().clone()
    trainer = engine.AMPTrainer(model, [torch.ones(3, 4)], torch.optim.SGD(model.parameters(), lr=0.1))
    with events.EventStorage():
        trainer.run_step()
    assert not torch.equal(before, model.weight)
    assert trainer.state_dict()["grad_scaler"] == {}, "bfloat16 needs no scaling"


def check_two_workers_see_each_other():
    from detectron2.utils import comm

    assert comm.all_gather(comm.get_rank()) == [0, 1]


@pytest.mark.slow
def test_launch_two_processes_without_gpu(monkeypatch):
    torch = pytest.importorskip("torch")
    engine = pytest.importorskip("detectron2.engine")
    if torch.cuda.is_available():
        pytest.skip("launch takes one GPU per process where there is any")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    engine.launch(check_two_workers_see_each_other, 2, dist_url="auto")
