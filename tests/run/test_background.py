"""A background coroutine returns its result or raises its exception, and is cancelled cleanly when its caller is."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading

import pytest

from pytest_comfyload.errors import LoadStopped
from pytest_comfyload.run.background import run_in_background


def test_the_result_comes_from_another_thread() -> None:
    async def main() -> str:
        return threading.current_thread().name

    assert run_in_background(main) == "comfyload"


def test_the_exception_is_the_coroutines_own() -> None:
    async def main() -> None:
        raise LookupError("not here")

    with pytest.raises(LookupError, match="not here"):
        run_in_background(main)


def test_what_fails_before_the_first_await_is_raised_too() -> None:
    def main() -> object:
        raise LookupError("no coroutine at all")

    with pytest.raises(LookupError, match="no coroutine at all"):
        run_in_background(main)  # type: ignore[arg-type]


def test_a_caller_may_already_run_a_loop() -> None:
    async def inner() -> int:
        await asyncio.sleep(0)
        return 7

    async def outer() -> int:
        return run_in_background(inner)

    assert asyncio.run(outer()) == 7


def test_the_caller_ticks_in_its_own_thread_until_the_end() -> None:
    ticked: list[str] = []
    loop_may_end = threading.Event()

    def tick() -> None:
        ticked.append(threading.current_thread().name)
        if len(ticked) == 2:
            loop_may_end.set()

    async def main() -> None:
        await asyncio.to_thread(loop_may_end.wait, 30)

    run_in_background(main, tick)
    assert len(ticked) >= 2
    assert set(ticked) == {threading.current_thread().name}


def test_a_tick_that_fails_ends_the_run() -> None:
    ended = threading.Event()

    async def main() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    def tick() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_in_background(main, tick)
    assert ended.is_set()


INTERRUPTED = """
import asyncio, {imports}
from pytest_comfyload.run.background import run_in_background

async def main():
    asyncio.get_running_loop().call_soon(lambda: {interrupt})
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.2)
        print("cleaned up")

try:
    run_in_background(main)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    ("imports", "interrupt"),
    [("_thread", "_thread.interrupt_main()"), ("os, signal", "os.kill(os.getpid(), signal.SIGINT)")],
    ids=["interrupt_main", "signal"],
)
def test_an_interrupt_waits_for_the_cleaning_up(imports: str, interrupt: str) -> None:
    program = INTERRUPTED.format(imports=imports, interrupt=interrupt)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert ended.stdout.splitlines() == ["cleaned up", "interrupted"], ended.stderr
    assert ended.returncode == 0


def test_a_run_that_does_not_clean_up_cannot_hold_the_caller() -> None:
    program = INTERRUPTED.format(imports="_thread", interrupt="_thread.interrupt_main()")
    program = program.replace("await asyncio.sleep(0.2)", "await asyncio.sleep(50)")
    program = "import pytest_comfyload.run.background as b; b.GRACE = 0.5\n" + program
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert ended.stdout.splitlines() == ["interrupted"], ended.stderr


def test_further_interrupts_are_not_heard_while_it_cleans_up_and_are_heard_afterwards() -> None:
    program = INTERRUPTED.format(imports="os, signal", interrupt="os.kill(os.getpid(), signal.SIGINT)")
    again = "[(os.kill(os.getpid(), number), await asyncio.sleep(0.1)) for number in (2, 14, 15)]"
    program = program.replace("await asyncio.sleep(0.2)", again)
    program += "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    program += "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert ended.stdout.splitlines() == ["cleaned up", "interrupted"], ended.stderr
    assert ended.returncode == 0


def test_whoever_wanted_it_may_stop_it() -> None:
    ended = []

    async def main() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(LoadStopped, match="the test run is ending"):
        run_in_background(main, stopped=lambda: True)
    assert ended == [True]
    assert signal.getsignal(signal.SIGINT) is handler
