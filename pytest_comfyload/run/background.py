"""Execution of a coroutine on an event loop in a separate thread, which an interrupt of the caller cancels cleanly.

While the coroutine cleans up, further interrupts are ignored: an impatient second Ctrl-C must not leave prompts behind.

A separate thread is needed because the caller may already be running an event loop. The caller waits on a Future, since
`Thread.join` returns immediately after a KeyboardInterrupt on Python 3.11.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from pytest_comfyload.engine.loop_lag import MeasuredLoop
from pytest_comfyload.errors import GeneratorError, LoadStopped

__all__ = ["run_in_background", "set_on_signals"]

T = TypeVar("T")

# Real seconds that a cancelled run has to clean up the servers.
GRACE = 4.0
# Seconds. A wait without a timeout is interrupted neither by Ctrl-C on Windows nor by _thread.interrupt_main().
SLICE = 0.5
# Signals that may interrupt the caller; SIGALRM is used for timeouts of tests.
INTERRUPTS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM") if hasattr(signal, name)]


def run_in_background(
    main: Callable[[], Coroutine[Any, Any, T]],
    tick: Callable[[], None] = lambda: None,
    stopped: Callable[[], bool] = lambda: False,
) -> T:
    """Return the coroutine's result or raise its exception; meanwhile, `tick` is called regularly in this thread.

    Raises: LoadStopped soon after `stopped` returns True.
    """
    done: concurrent.futures.Future[T] = concurrent.futures.Future()
    cancel = _Cancel()
    thread = threading.Thread(target=_run, args=(main, done, cancel), name="comfyload", daemon=True)
    try:
        _start(thread, done)
        while not done.done():
            concurrent.futures.wait([done], timeout=SLICE)
            tick()
            if not done.done() and stopped():
                raise LoadStopped("the load was stopped: the test run is ending")
        return done.result()
    except BaseException:
        # Either the run has ended with an exception of its own, or this is an interrupt and the run must be cancelled.
        _settle(done, cancel)
        raise


def set_on_signals(event: asyncio.Event) -> None:
    """Set the event on SIGINT or SIGTERM. On Windows, Ctrl-C remains a KeyboardInterrupt, which ends `asyncio.run`."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, event.set)


def _start(thread: threading.Thread, done: concurrent.futures.Future[Any]) -> None:
    try:
        thread.start()
    except RuntimeError as error:
        done.set_exception(_told(error))


def _told(error: BaseException) -> BaseException:
    """Return a clearer error for one that Python only describes in its message; any other error unchanged."""
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return GeneratorError(
            "no more threads can be started on this machine; raise the limit (`ulimit -u`) or end other processes"
        )
    return error


def _settle(done: concurrent.futures.Future[Any], cancel: Callable[[], None]) -> None:
    """Cancel a run that has not ended, and wait until it has cleaned up, even if another interrupt arrives first."""
    while not done.done():
        with contextlib.suppress(KeyboardInterrupt), _undisturbed():
            cancel()
            concurrent.futures.wait([done], timeout=GRACE)
            return


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore interrupts, which only the main thread receives."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, lambda number, frame: None) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            # None means that the handler was not set from Python, so it cannot be restored.
            if handler is not None:
                signal.signal(number, handler)


class _Cancel:
    """A function that cancels the run from another thread, even before it has started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = False
        self._target: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    def arm(self, task: asyncio.Task[Any]) -> None:
        with self._lock:
            self._target = (asyncio.get_running_loop(), task)
            if self._wanted:
                task.cancel()

    def __call__(self) -> None:
        with self._lock:
            self._wanted = True
            if self._target is not None:
                loop, task = self._target
                loop.call_soon_threadsafe(task.cancel)


def _run(main: Callable[[], Coroutine[Any, Any, T]], done: concurrent.futures.Future[T], cancel: _Cancel) -> None:
    async def armed() -> T:
        task = asyncio.ensure_future(main())
        cancel.arm(task)
        return await task

    try:
        with asyncio.Runner(loop_factory=MeasuredLoop) as runner:
            result = runner.run(armed())
    except BaseException as error:
        done.set_exception(_told(error))
    else:
        done.set_result(result)
