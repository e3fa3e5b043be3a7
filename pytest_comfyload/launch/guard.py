"""Guard that ends a process group when the process that started it has died, even by SIGKILL: `python guard.py PID`.

It runs as a script that needs only the standard library, in its own session, with a pipe from the parent as standard
input: the pipe closes when the parent dies. If another process has inherited the pipe, the guard notices that the id of
its parent process has changed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

__all__ = ["main"]

# Seconds between polls of the parent process, and between SIGTERM and SIGKILL.
PERIOD = 1.0
GRACE = 5.0


def main(group: int) -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        readable, _, _ = select.select([sys.stdin], [], [], PERIOD)
        if readable and not os.read(sys.stdin.fileno(), 1):
            break
    # The group no longer exists if its processes have finished on their own.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
        time.sleep(GRACE)
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
