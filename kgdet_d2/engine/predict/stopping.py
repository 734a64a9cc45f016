"""The end of a run by SIGINT, which is Ctrl-C, and SIGTERM."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stopped_by_signals(how_to_go_on: str) -> Iterator[Callable[[], None]]:
    """Let both signals end a block by KeyboardInterrupt, of this message.

    Yields:
        A function to be called again and again, which raises it where it was lost: no exception gets out of
        what Python calls when it frees an object.
    """
    received: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if received:
            raise KeyboardInterrupt

    def report(lost: "sys.UnraisableHookArgs") -> None:
        if lost.exc_type is not KeyboardInterrupt:
            sys.__unraisablehook__(lost)

    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    hook, sys.unraisablehook = sys.unraisablehook, report
    try:
        yield check
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(how_to_go_on) from error
    finally:
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)
