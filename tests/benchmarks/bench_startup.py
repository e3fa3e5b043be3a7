"""What the plugin adds to the CPU time of a pytest run: an unrelated suite, a collection, one load test.

    python -m tests.benchmarks.bench_startup [rounds]

Bare pytest (`-p no:comfyload`, plain tests) and pytest with the plugin alternate; the minimum of the rounds counts.
Bytecode is cached, as on a user's machine. Other plugins are loaded in both, except for the unrelated suite, where this
plugin adds less than their variation. A simulator in a separate process serves the load test.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pytest_comfyload.launch.simulator import SimulatorProcess

__all__ = ["Figure", "figures"]

ROUNDS = 7
TESTS = 1000
_WITHOUT = ("-p", "no:comfyload")
# Used with and without the plugin, so that its cost cancels out.
_CONFTEST = """
import sys

def pytest_unconfigure():
    with open("modules.txt", "w") as file:
        file.write("\\n".join(sys.modules))
"""
_IMPORT = "from pytest_comfyload import load_scenario\n\n"
_LOAD = """
@load_scenario("txt2img", users=1, iterations=1{arguments})
def test_{number}(load):
    assert load.success_rate == 100
    assert load.total_time.p95 < 600
"""
_PLAIN = """
def test_{number}():
    assert 100 == 100
    assert 0 < 600
"""


class Figure(NamedTuple):
    """Least CPU seconds of all rounds without and with the plugin, and how many of its `modules` were loaded."""

    name: str
    bare: float
    plugin: float
    modules: int
    bound: float

    @property
    def added(self) -> float:
        """CPU seconds that the plugin adds."""
        return self.plugin - self.bare


class _Case(NamedTuple):
    """A case: test file `plain` runs with the arguments `bare`, test file `load` with the arguments `plugin`."""

    name: str
    plain: str
    load: str
    bare: Sequence[str]
    plugin: Sequence[str]
    bound: float
    environment: Mapping[str, str]


def figures(rounds: int = ROUNDS) -> list[Figure]:
    """Measure all cases in each round."""
    with tempfile.TemporaryDirectory() as folder, SimulatorProcess() as server:
        cases = list(_cases(server.url, Path(folder)))
        seconds: dict[str, list[tuple[float, float]]] = {case.name: [] for case in cases}
        modules = {}
        for number in range(rounds + 1):
            for case in cases:
                bare = _run(case.plain, case.bare, case.environment)
                plugin = _run(case.load, case.plugin, case.environment)
                modules[case.name] = _ours(Path(case.load).parent)
                # The first round only fills the bytecode cache.
                seconds[case.name] += [(bare, plugin)] if number else []
    return [_figure(case, seconds[case.name], modules[case.name]) for case in cases]


def _figure(case: _Case, seconds: Sequence[tuple[float, float]], modules: int) -> Figure:
    return Figure(
        case.name, min(bare for bare, _ in seconds), min(plugin for _, plugin in seconds), modules, case.bound
    )


def _cases(url: str, folder: Path) -> Iterable[_Case]:
    cached = {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
    plain = _suite(folder / "unrelated", _PLAIN, 20)
    alone, ours = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, ["-p", "pytest_comfyload.plugin"]
    yield _Case("unrelated suite", plain, plain, [], ours, 0.02, {**cached, **alone})
    many_plain, many = (_suite(folder / name, each, TESTS) for name, each in (("plain", _PLAIN), ("many", _LOAD)))
    collect = ["--collect-only"]
    yield _Case(f"{TESTS} load tests collected", many_plain, many, [*_WITHOUT, *collect], collect, 0.35, cached)
    one = _suite(folder / "one", _PLAIN, 1)
    for values in (0, 5_000, 99_999):
        name = f"one load test, {values} input values" if values else "one load test"
        arguments = f', inputs={{"KSampler.cfg": [each / 1000 for each in range(1, {values + 1})]}}' if values else ""
        path = _suite(folder / f"load-{values}", _LOAD, 1, arguments)
        yield _Case(name, one, path, _WITHOUT, [f"--comfyui-url={url}"], 0.8, cached)


def _suite(folder: Path, test: str, tests: int, arguments: str = "") -> str:
    """Write a suite and return the path of its test file."""
    folder.mkdir()
    (folder / "conftest.py").write_text(_CONFTEST, encoding="utf-8")
    path = folder / "test_it.py"
    body = "".join(test.format(number=number, arguments=arguments) for number in range(tests))
    path.write_text((_IMPORT if test is _LOAD else "") + body, encoding="utf-8")
    return str(path)


def _run(path: str, arguments: Sequence[str], environment: Mapping[str, str]) -> float:
    """Return the CPU seconds of a pytest run.

    Raises:
        RuntimeError: A test failed.
    """
    command = [sys.executable, "-m", "pytest", "-q", *arguments, path]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, cwd=Path(path).parent, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _ours(folder: Path) -> int:
    names = (folder / "modules.txt").read_text(encoding="utf-8").splitlines()
    return sum(name.partition(".")[0] == "pytest_comfyload" for name in names)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    print(f"CPU ms, least of {rounds} rounds{'':13}   bare  plugin   added  bound  ratio  modules of this package")
    for each in figures(rounds):
        bare, plugin, added, bound = (1000 * value for value in (each.bare, each.plugin, each.added, each.bound))
        ratio = each.plugin / each.bare
        print(f"{each.name:<40}{bare:7.0f} {plugin:7.0f} {added:7.1f} {bound:6.0f} {ratio:6.2f} {each.modules:8d}")


if __name__ == "__main__":
    main()
