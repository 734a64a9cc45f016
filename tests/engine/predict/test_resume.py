"""Runs of ``kgdet predict`` that were broken off, and that go on."""

import os
import random
import shutil
import signal
import time

import pytest

from kgdet_d2 import FashionPredictor
from kgdet_d2.engine.predict import job, parts
from tests.helpers.predict_runs import ALL, contents, predict, start


class BrokenOffError(BaseException):
    """As a signal would end the process."""


def break_off_at(monkeypatch, call, reason):
    """Let the model give its reason in place of results at a call of it; return the sizes of all batches."""
    sizes, predict_mapped = [], FashionPredictor.predict_mapped

    def counted(self, inputs):
        sizes.append(len(inputs))
        if len(sizes) == call + 1:
            reason()
        return predict_mapped(self, inputs)

    monkeypatch.setattr(FashionPredictor, "predict_mapped", counted)
    return sizes


def break_off():
    raise BrokenOffError


@pytest.mark.parametrize("call", [0, 2, 3, 5])
def test_broken_off_and_gone_on_with(whole, photos, weights, tmp_path, monkeypatch, call):
    """With the same files, byte by byte; what was done is not done again."""
    output = tmp_path / "found"
    sizes = break_off_at(monkeypatch, call, break_off)
    with pytest.raises(BrokenOffError):
        predict(output, weights, photos, "--formats", *ALL)
    left = 7 - 3 * len(list(output.glob("parts/0*[0-9]")))  # of which a part has three, but the last
    for unfinished in ("parts/00000003.77.tmp/a", "pictures/a/1.jpg.jpg.77.tmp", "garments.parquet.77.tmp"):
        (output / unfinished).parent.mkdir(parents=True, exist_ok=True)
        (output / unfinished).touch()
    sizes[:] = [0] * 100
    assert predict(output, weights, photos, "--formats", *ALL, resume=True) == 1
    assert sum(sizes) == left
    assert contents(output) == contents(whole)


@pytest.mark.parametrize("name", ["garments.parquet", "coco_images.json", "photos.parquet"])
def test_broken_off_while_the_parts_are_joined(whole, photos, weights, tmp_path, monkeypatch, name):
    output, joined = tmp_path / "found", job.merge_parts

    def broken_off(*args):
        joined(*args)
        (output / name).unlink()
        (output / "photos.parquet").unlink(missing_ok=True)
        raise BrokenOffError

    monkeypatch.setattr(job, "merge_parts", broken_off)
    with pytest.raises(BrokenOffError):
        predict(output, weights, photos, "--formats", *ALL)
    monkeypatch.setattr(job, "merge_parts", joined)
    monkeypatch.setattr(FashionPredictor, "predict_mapped", None)  # nothing is left to predict
    assert predict(output, weights, photos, "--formats", *ALL, resume=True) == 1
    assert contents(output) == contents(whole)


def test_what_is_done_is_not_done_again(whole, photos, weights, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole, tmp_path / "found")
    monkeypatch.setattr(FashionPredictor, "predict_mapped", None)
    assert predict(tmp_path / "found", weights, photos, "--formats", *ALL, resume=True) == 1
    assert contents(tmp_path / "found") == contents(whole)
    printed = capsys.readouterr()
    assert "21 garments on 7 photos" in printed.out
    assert "1 of 8 photos could not be read" in printed.err


def test_another_run_s_folder_is_kept(whole, photos, weights, tmp_path, capsys):
    before = contents(whole)
    assert predict(whole, weights, photos, "--formats", *ALL) == 1
    assert "is not empty; --resume goes on" in capsys.readouterr().err
    assert predict(whole, weights, photos, threshold=0.5, resume=True) == 1
    assert "of a run with other score_threshold, formats" in capsys.readouterr().err
    assert predict(whole, weights, photos / "a", "--formats", *ALL, resume=True) == 1
    assert "of a run with other photos" in capsys.readouterr().err
    assert contents(whole) == before
    (tmp_path / "something.1.tmp").touch()
    assert predict(tmp_path, weights, photos, resume=True) == 1
    assert "is of no run, it has no run.json" in capsys.readouterr().err
    assert (tmp_path / "something.1.tmp").exists()


def test_a_run_that_had_hardly_begun_goes_on(photos, weights, tmp_path):
    (tmp_path / "run.json.77.tmp").touch()
    assert predict(tmp_path, weights, photos / "a", resume=True) == 0
    assert sorted(contents(tmp_path)) == ["garments.parquet", "photos.parquet", "run.json"]


class Freed:
    """Gets a signal where no exception gets out."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)


def test_a_signal_that_meets_the_end_of_an_object(photos, weights, tmp_path, monkeypatch, capsys):
    sizes = break_off_at(monkeypatch, 4, Freed)
    assert predict(tmp_path, weights, photos) == 130
    assert len(sizes) == 5
    printed = capsys.readouterr().err
    assert printed.splitlines()[-1] == "interrupted: --resume goes on" and "Traceback" not in printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_one_line(photos, weights, tmp_path, monkeypatch, capsys, number):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    break_off_at(monkeypatch, 4, lambda: os.kill(os.getpid(), number))
    assert predict(tmp_path, weights, photos) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted: --resume goes on"
    assert (tmp_path / "parts/00000000").is_dir()
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_full_disk_is_told_in_one_line(photos, weights, tmp_path, monkeypatch, capsys):
    def full(*args):
        raise OSError(28, "No space left on device")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(parts, "part_tables", full)
        assert predict(tmp_path, weights, photos) == 1
    message = (
        f"error: --output: cannot write to {tmp_path}: [Errno 28] No space left on device; --resume goes on"
    )
    assert capsys.readouterr().err.splitlines()[-1] == message
    assert predict(tmp_path, weights, photos, resume=True) == 1


@pytest.mark.slow
def test_killed_at_any_moment(photos, weights, tmp_path):
    """By the signals of users and of the system, again and again; no process stays behind."""
    for name in "cdef":
        shutil.copytree(photos, tmp_path / "photos" / name)
    arguments = [weights, tmp_path / "photos", "--formats", *ALL]
    output, log, moments, ends = tmp_path / "found", tmp_path / "log.txt", random.Random(0), []
    command, began = start(log, tmp_path / "whole", *arguments), time.monotonic()
    assert command.wait() == 1
    duration = time.monotonic() - began
    for number in [signal.SIGKILL, signal.SIGTERM, signal.SIGINT] * 4:
        command = start(log, output, *arguments, resume=True)
        time.sleep(moments.uniform(0, duration / 2))
        command.send_signal(number)
        ends.append(command.wait())
        assert "Traceback" not in log.read_text()
        with pytest.raises(ProcessLookupError):
            os.killpg(command.pid, 0)
        if ends[-1] == 1:  # it had come to its end before: another run from the beginning
            assert contents(output) == contents(tmp_path / "whole")
            shutil.rmtree(output)
    assert ends.count(-signal.SIGKILL) > 1 < ends.count(130), ends
    assert predict(output, *arguments, resume=True) == 1
    assert contents(output) == contents(tmp_path / "whole")
