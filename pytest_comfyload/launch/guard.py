"""Ends a process group when the process that started it is gone, even after SIGKILL: `python guard.py PID`.

Run as a script by the standard library alone, in a session of its own, with its standard input a pipe from the parent:
the pipe ends with the parent. Where another process has inherited the pipe, the change of the parent's id tells.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

__all__ = ["main"]

# Seconds between two looks at the parent, and between SIGTERM and SIGKILL.
PERIOD = 1.0
GRACE = 5.0


def main(group: int) -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        readable, _, _ = select.select([sys.stdin], [], [], PERIOD)
        if readable and not os.read(sys.stdin.fileno(), 1):
            break
    # The group is missing where it has ended by itself.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
        time.sleep(GRACE)
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
