"""End of a session: SIGTERM acts like Ctrl-C, so that loads leave their servers clean, and our errors fail no tests.

A SIGTERM handler of another plugin is left in place.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.text import harmless

__all__ = ["contained", "orderly_termination"]


@contextlib.contextmanager
def orderly_termination(needed: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Make SIGTERM raise KeyboardInterrupt in the `with` block; while that is not `needed`, it kills as usual."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if needed():
            raise KeyboardInterrupt("terminated by SIGTERM")
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is interrupt:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def contained(what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Report an error in the `with` block as one line: the tests have finished, and their verdicts stay as they are."""
    try:
        yield
    except (ComfyloadError, OSError) as error:
        say(harmless(f"{what}: {error}"))
    except Exception as error:
        say(
            harmless(f"warning: {what}: {type(error).__name__}: {error}. ", 1000)
            + "This is a bug in pytest-comfyload; please report it; -p no:comfyload runs pytest without it"
        )
