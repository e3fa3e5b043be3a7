"""Runs ComfyUI, and ends it where it does not work any more, so that a restart policy starts it anew.

A server whose worker thread has died, or whose GPU hangs, still answers 200 on an open socket, so it is judged by its
progress. This file is also copied into the worker's image, so it uses only Python's standard library.

    python watchdog.py --url=http://127.0.0.1:8188 --hung=600 --ooms=3 -- python main.py …
    python watchdog.py --healthy      # the container's health check: the result of the last poll
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from pathlib import Path
from typing import IO, Any

__all__ = ["Hung", "Watch", "crash", "is_healthy", "main", "run"]

# Seconds that an answer may take, and between two polls.
ANSWER, PERIOD = 5.0, 5.0
# Seconds within which a server that has answered once must answer again, and an idle one execute a tiny prompt.
SILENT, PROBE = 60.0, 60.0
# Seconds of idleness before the tiny prompt is sent, and for ComfyUI to exit after SIGTERM.
IDLE, GRACE = 60.0, 20.0
# Its modification time is that of the last successful poll; it contains ComfyUI's process id.
HEALTHY = Path(tempfile.gettempdir()) / "comfyui-healthy"
# What a server with a dead worker thread still writes for each prompt that it receives.
NO_PROGRESS = b"got prompt"
# The exceptions for an answer that does not arrive, or is not ComfyUI's.
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, http.client.HTTPException)


class Hung(Exception):
    """The server must be stopped; the message says why."""


class Watch:
    """The observed state of one server; times are seconds of the monotonic clock.

    The server must be stopped after `hung` seconds without progress while prompts wait or run, or after `ooms` prompts
    in a row that ran out of memory.
    """

    def __init__(self, url: str, hung: float, ooms: int) -> None:
        self._url = url
        self._hung = hung
        self._ooms = ooms
        self._answered: float | None = None
        self._progress = time.monotonic()
        self._idle_since = time.monotonic()
        self._ended: list[str] = []
        self._probe: tuple[str, float] | None = None

    def hear(self, line: bytes) -> None:
        """Process a line that ComfyUI wrote: progress bars count as progress."""
        if line.strip() and not line.startswith(NO_PROGRESS):
            self._progress = time.monotonic()

    def look(self) -> bool:
        """Poll the server once, and return whether all is well. Raises: Hung."""
        now = time.monotonic()
        try:
            remaining = self._remaining()
            history = self._call(f"/history?max_items={self._ooms}")
            self._answered = now
            self._see_ends(history, now)
            self._see_progress(remaining, now)
            self._see_probe(history, remaining, now)
        except UNREADABLE:
            # Before its first answer, it may load custom nodes for as long as it takes.
            if self._answered is not None and now - self._answered > SILENT:
                raise Hung(f"no answer for {SILENT:g} s") from None
            return False
        return True

    def _see_progress(self, remaining: int, now: float) -> None:
        """Note progress. Raises: Hung if there was none for too long."""
        if remaining == 0:
            self._progress = now
        else:
            self._idle_since = now
        if now - self._progress > self._hung:
            raise Hung(f"{remaining} prompts wait or run, and nothing has moved for {self._hung:g} s")

    def _see_ends(self, history: dict[str, Any], now: float) -> None:
        """Note prompts that ended. Raises: Hung if all of the last ones ran out of memory."""
        if list(history) != self._ended:
            self._ended, self._progress = list(history), now
        if len(history) >= self._ooms and all(map(_out_of_memory, history.values())):
            raise Hung(f"the last {len(history)} prompts ran out of memory")

    def _see_probe(self, history: dict[str, Any], remaining: int, now: float) -> None:
        """Send a tiny prompt to a server that has long been idle. Raises: Hung if it is not executed."""
        if self._probe is None:
            if now - self._idle_since > IDLE:
                self._probe = (self._send(), now)
            return
        prompt_id, sent = self._probe
        if prompt_id in history or self._call(f"/history/{prompt_id}"):
            # Keep it out of the users' history.
            self._call("/history", {"delete": [prompt_id]})
            self._ended = [each for each in self._ended if each != prompt_id]
        elif remaining > 1:
            # Other prompts arrived meanwhile: this one waits its turn, and their progress counts.
            return
        elif now - sent > PROBE:
            raise Hung(f"idle, but a tiny prompt was not executed within {PROBE:g} s")
        else:
            return
        self._probe, self._idle_since = None, now

    def _send(self) -> str:
        prompt_id = str(uuid.uuid4())
        # A new colour, since a result from the cache would prove nothing.
        size = {"width": 8, "height": 8, "batch_size": 1, "color": random.randrange(1 << 24)}
        graph = {
            "1": {"class_type": "EmptyImage", "inputs": size},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        }
        self._call("/prompt", {"prompt": graph, "prompt_id": prompt_id})
        return prompt_id

    def remaining(self) -> int:
        """Return the number of prompts that wait or run; 0 if there is no answer."""
        try:
            return self._remaining()
        except UNREADABLE:
            return 0

    def _remaining(self) -> int:
        return int(self._call("/prompt")["exec_info"]["queue_remaining"])

    def _call(self, path: str, body: object = None) -> Any:
        """Return the JSON answer, None for an empty one. Raises: OSError, ValueError."""
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, content, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=ANSWER) as answer:
            text = answer.read()
        return json.loads(text) if text else None


def _out_of_memory(entry: Any) -> bool:
    """Return whether a prompt in the history ran out of GPU memory."""
    messages = entry.get("status", {}).get("messages", [])
    kinds = [str(said.get("exception_type")) for name, said in messages if name == "execution_error"]
    return any("OutOfMemory" in kind for kind in kinds)


def run(command: list[str], watch: Watch, drain: float) -> int:
    """Run ComfyUI until it exits or has to be stopped, and return the exit status.

    SIGTERM and SIGINT stop it, after at most `drain` seconds for the prompts in its queue.
    """
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    assert child.stdout is not None
    threading.Thread(target=_pass_on, args=(child.stdout, watch), daemon=True).start()
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: ending.set())
    try:
        while child.poll() is None and not ending.wait(PERIOD):
            if watch.look():
                HEALTHY.write_text(f"{child.pid}")
        deadline = time.monotonic() + drain
        while child.poll() is None and ending.is_set() and watch.remaining() and time.monotonic() < deadline:
            time.sleep(1)
    except Hung as error:
        print(f"watchdog: {error}; ComfyUI is ended", file=sys.stderr, flush=True)
        _end(child)
        return 1
    finally:
        HEALTHY.unlink(missing_ok=True)
        _end(child)
    return child.returncode if not ending.is_set() else 0


def _pass_on(output: IO[bytes], watch: Watch) -> None:
    """Copy what ComfyUI writes to our own output; progress bars have no line feeds."""
    while chunk := os.read(output.fileno(), 65536):
        for line in chunk.replace(b"\r", b"\n").split(b"\n"):
            watch.hear(line)
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def _end(child: subprocess.Popen[bytes]) -> None:
    """Stop ComfyUI and all processes that it started, by SIGTERM, then by SIGKILL."""
    for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
            return


def is_healthy() -> bool:
    """Return whether one of the last polls was successful."""
    try:
        return time.time() - HEALTHY.stat().st_mtime < 6 * PERIOD
    except OSError:
        return False


def crash() -> int:
    """Kill ComfyUI as a crash would, for `comfyload doctor --disruptive`; return the exit status."""
    try:
        os.killpg(int(HEALTHY.read_text()), signal.SIGKILL)
    except (OSError, ValueError) as error:
        print(f"watchdog: no healthy ComfyUI to crash ({error})", file=sys.stderr)
        return 1
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the watchdog's command line, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--healthy", action="store_true", help="exit with 0 where the last look was good")
    parser.add_argument("--crash", action="store_true", help="kill a healthy ComfyUI to test its restart")
    parser.add_argument("--url", default="http://127.0.0.1:8188", help="where ComfyUI answers")
    parser.add_argument("--hung", type=float, default=600, help="seconds without progress while prompts wait or run")
    parser.add_argument("--ooms", type=int, default=3, help="prompts in a row that run out of memory")
    parser.add_argument("--drain", type=float, default=0, help="seconds for prompts in the queue when it is stopped")
    parser.add_argument("command", nargs="*", help="ComfyUI")
    options = parser.parse_args(arguments)
    if options.healthy:
        return 0 if is_healthy() else 1
    if options.crash:
        return crash()
    if not options.command:
        parser.error("give ComfyUI's command after --")
    return run(options.command, Watch(options.url, options.hung, options.ooms), options.drain)


if __name__ == "__main__":
    sys.exit(main())
