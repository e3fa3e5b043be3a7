"""SIGTERM ends pytest as Ctrl-C does, so that loads leave their servers clean; a handler of somebody else's stays."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["orderly_termination"]


@contextlib.contextmanager
def orderly_termination(needed: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Within it SIGTERM raises KeyboardInterrupt; as long as that is not `needed`, it kills as ever."""
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
