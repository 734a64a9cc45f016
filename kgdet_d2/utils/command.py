"""The common manner of all commands: how their arguments are described and how they end."""

import argparse
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool

DETECTRON2_MISSING = (
    "Detectron2 is not installed, and no package index has it under its name; install it with: "
    "kgdet install-detectron2 (in a checkout: python tools/install_detectron2.py)"
)
# Packages; whoever needs one names its extra.
_OPTIONAL = frozenset({"gradio", "onnx", "onnxruntime", "onnxscript", "ray", "supervision", "timm"})
_INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended


def command_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser without arguments that prints the description as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def at_least(lowest: int) -> Callable[[str], int]:
    """Return an argparse type: an integer from ``lowest`` on."""

    def parse(text: str) -> int:
        number = int(text)
        if number < lowest:
            raise argparse.ArgumentTypeError(f"expected {lowest} or more, got {number}")
        return number

    return parse


def exit_status(command: Callable[[], int | None]) -> int:
    """Run a command; print what is wrong with its input or the machine as one line on stderr, and return 1.

    Args:
        command: returns its exit status, None for 0.

    Raises:
        Exception: a fault of the program itself, which keeps its traceback.
    """
    try:
        return command() or 0
    except KeyboardInterrupt as interrupt:
        print(": ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        return _INTERRUPTED
    except Exception as error:
        if not _is_for_the_user(error):
            raise
        message = DETECTRON2_MISSING if _lacks_detectron2(error) else str(error)
        print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
        return 1


def _is_for_the_user(error: Exception) -> bool:
    """Return whether the user can do something about an error."""
    if isinstance(error, OSError | ValueError | FloatingPointError | BrokenProcessPool):
        return True
    if isinstance(error, ImportError) and error.name in _OPTIONAL:
        return True
    # PyTorch raises RuntimeError, too, for any fault of a program.
    return _lacks_detectron2(error) or (isinstance(error, RuntimeError) and _is_raised_here(error))


def _lacks_detectron2(error: Exception) -> bool:
    return isinstance(error, ModuleNotFoundError) and error.name == "detectron2"


def _is_raised_here(error: Exception) -> bool:
    """Return whether a function of this package raised the error."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    module = traceback.tb_frame.f_globals.get("__name__", "") if traceback is not None else ""
    return module.partition(".")[0] == __name__.partition(".")[0]
