"""How commands end: a line for the user, a traceback for a fault of the program."""

import argparse
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch

from kgdet_d2 import cli
from kgdet_d2.data.images import read_image
from kgdet_d2.utils.command import at_least, exit_status


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize("status", [None, 0, 1, 3])
def test_the_command_s_own_status(status):
    assert exit_status(lambda: status) == (status or 0)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a\nb"),
        FileNotFoundError("a b"),
        FloatingPointError("a b"),
        BrokenProcessPool("a b"),
        MemoryError("a b"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_user_can_settle_is_one_line(error, capsys):
    assert exit_status(raising(error)) == 1
    assert capsys.readouterr().err == "error: a b\n"


def test_an_error_without_words_is_called_by_its_name(capsys):
    assert exit_status(raising(MemoryError())) == 1
    assert capsys.readouterr().err == "error: MemoryError\n"


def test_a_runtime_error_is_a_line_where_this_package_raises_it(tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    assert exit_status(lambda: read_image(str(tmp_path / "a.jpg"), "RGB")) == 1
    assert "a.jpg: cannot read" in capsys.readouterr().err
    with pytest.raises(RuntimeError):
        exit_status(lambda: torch.zeros(2) @ torch.zeros(3))


@pytest.mark.parametrize("error", [TypeError("a"), KeyError("a"), ModuleNotFoundError("a", name="yacs")])
def test_a_fault_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        exit_status(raising(error))


def test_interruption(capsys):
    assert exit_status(raising(KeyboardInterrupt())) == 130
    assert exit_status(raising(KeyboardInterrupt("nothing was written"))) == 130
    assert capsys.readouterr().err == "interrupted\ninterrupted: nothing was written\n"


def test_every_command_has_a_parser_of_its_own(capsys):
    for name in cli.COMMANDS:
        with pytest.raises(SystemExit) as stop:
            cli.main([name, "--help"])
        assert stop.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: kgdet {name} ")


def test_an_unknown_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["trian"])
    assert stop.value.code == 2 and "'trian'" in capsys.readouterr().err


def test_integers_from_a_lowest_one_on():
    assert [at_least(1)("1"), at_least(0)("25")] == [1, 25]
    with pytest.raises(argparse.ArgumentTypeError, match="expected 2 or more, got 1"):
        at_least(2)("1")
