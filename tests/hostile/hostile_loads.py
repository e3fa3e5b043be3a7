"""Loads against the hostile server as a user runs them: pytest with the plugin, in processes with little memory.

`python -m tests.hostile.hostile_loads [PATTERN] [--tested] [--write]` runs all cases, or those whose names match, or
those used by the tests, and prints their results; `--write` makes each case's reported line its expected line.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.hostile.hostile_cases import CASES
from tests.hostile.hostile_server import GRAPH, Case, picture, serving
from tests.plugin.suite import ALONE

__all__ = ["LINES", "Verdict", "complaints", "dirt", "run_cases"]

TIMEOUT = 2.0
# Seconds in addition to the load's own `timeout`.
MOST_TIME = 5.0
# Seconds of a load without faults on an idle machine, and the factor by which all times may grow on a shared one: a
# hang of a minute is still detected there.
QUIET, MOST_SHARED = 0.5, 6.0
# A comparison of A and B runs each twice, with one warm-up prompt before each.
LOADS_OF_AB = 4
# In addition to what the process uses after all imports. Three users may each have an output of at most 256 MiB.
MOST_MEMORY = 1 << 30
PROMPTS = 3
# A load spends more time waiting than working.
AT_ONCE = 8

_MARK = f"timeout='{TIMEOUT:g}s', max_send_lag='30s', seed=1"
_LOAD = f"users={PROMPTS}, iterations=1, warmup=0, {_MARK}"
_UPLOADING = {**GRAPH, "3": {"class_type": "LoadImage", "inputs": {"image": "there.png"}}}
_UPLOADING["2"] = {**GRAPH["2"], "inputs": {**GRAPH["2"]["inputs"], "images": ["3", 0]}}
_IMPORTS = "from pathlib import Path\nfrom pytest_comfyload import load_scenario\n"
_TEST = """
@load_scenario({graph}, servers=["{url}"], {load}{more})
def test_{number}(load):
    assert load.success_rate == 100
"""
_AB = """
def test_{number}(run_ab):
    ab = run_ab({graph}, A={{}}, B={{"inputs": {{"KSampler.steps": 5}}}}, pairs=2, servers=["{url}"], {mark})
    assert ab.generation_time.ratio.upper > 0
"""
_CONFTEST = f"""
import gc, json, os, resource, time
from pathlib import Path
import pytest
import httpx, PIL.Image, filelock, websockets.asyncio.client
import pytest_comfyload.run.load_run
from pytest_comfyload.plugin.session import LOADS

def kilobytes(name):
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))

def pytest_configure(config):
    most = kilobytes("VmSize") * 1024 + {MOST_MEMORY}
    resource.setrlimit(resource.RLIMIT_AS, (most, most))

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    Path("/proc/self/clear_refs").write_text("5")
    gc.collect()
    before, begun = kilobytes("VmRSS"), time.monotonic()
    result = yield
    row = {{"name": item.name, "seconds": time.monotonic() - begun, "memory": 1024 * (kilobytes("VmHWM") - before)}}
    row["busy"] = os.getloadavg()[0] / os.cpu_count()
    row["loads"] = [
        {{
            "submitted": load.accounting.submitted,
            "intended": load.accounting.intended,
            "dropped": int(load.dropped),
            "by_status": {{str(status): count for status, count in load.accounting.by_status.items()}},
            "ids": [outcome.prompt_id for outcome in load.outcomes],
            "run_id": load.facts.run_id,
            "state": load.state,
            "errors": sorted({{str(outcome.error) for outcome in load.outcomes if outcome.error}}),
            "notes": list(load.facts.notes),
        }}
        for load in item.stash.get(LOADS, [])
    ]
    write(row)
    return result

def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        texts = [report.longreprtext, *(text for title, text in report.sections if title == "comfyload")]
        write({{"name": report.location[2], "outcome": report.outcome, "text": chr(10).join(texts)}})

def write(row):
    with Path("rows.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\\n")
"""


@dataclass
class Verdict:
    """The result of one case.

    `text` is the failure as pytest shows it, `output` what the whole process printed, and `usual` the seconds that a
    load without faults took at the time. `busy` is the number of runnable processes per processor at the time.
    """

    case: Case
    seconds: float = 0.0
    usual: float = 0.0
    busy: float = 0.0
    memory: float = 0.0
    outcome: str = "never ran"
    text: str = ""
    loads: list[dict[str, Any]] = field(default_factory=list)
    stored: frozenset[str] = frozenset()
    output: str = ""
    code: int = 0


def complaints(verdict: Verdict) -> list[str]:
    """Return what was wrong with how the plugin handled the case."""
    case, said = verdict.case, verdict.text
    found = []
    if verdict.outcome == "never ran":
        found.append("never ran")
    loads = LOADS_OF_AB if case.load == "ab" else 1
    shared = min(max(verdict.usual / QUIET, verdict.busy, 1.0), MOST_SHARED)
    if verdict.seconds > loads * shared * (TIMEOUT + MOST_TIME):
        found.append(f"took {verdict.seconds:.1f} s, and a load without faults {verdict.usual:.1f} s")
    if verdict.memory > MOST_MEMORY:
        found.append(f"took {verdict.memory / 2**20:.0f} MiB")
    line = line_of(verdict)
    late = shared > 1.0 and _LATE.search(line)
    if case.name in LINES and not late and not _SATURATED.match(line) and not _is_expected(line, LINES[case.name]):
        found.append(f"said {line!r}, not {LINES[case.name]!r}")
    for load in verdict.loads:
        if not _is_whole(load):
            found.append(f"lost count: {load}")
        if load["run_id"] not in verdict.stored:
            found.append(f"run {load['run_id']} is not stored")
    found += [f"printed {each!r}" for each in dirt(said)]
    return found


def _is_whole(load: Mapping[str, Any]) -> bool:
    return (
        load["intended"] == load["submitted"] + load["dropped"]
        and load["submitted"] == sum(load["by_status"].values())
        and len(set(load["ids"])) == len(load["ids"])
    )


_DIRT = re.compile(
    r"Traceback|INTERNALERROR|never retrieved|never awaited|was destroyed|Unraisable|warnings summary|MemoryError"
    r"|pytest_comfyload/\w+/|\x1b|\x07|\u202e|^\s*::set-output|^##vso\[",
    re.MULTILINE,
)


def dirt(text: str) -> list[str]:
    return sorted({match[0] for match in _DIRT.finditer(text)})


def run_cases(cases: Iterable[Case], folder: Path) -> list[Verdict]:
    """Run the cases, several processes at a time."""
    chosen = list(cases)
    # All loads of a session use the same workers.
    batches = [[case] for case in chosen if case.load == "worker"]
    others = [case for case in chosen if case.load != "worker"]
    batches += [batch for number in range(AT_ONCE) if (batch := others[number::AT_ONCE])]
    helpers = [Case("a good server", "none", None)]
    folders = [folder / f"batch{number}" for number in range(len(batches))]
    with (
        serving([*helpers, *(case for batch in batches for case in batch)]) as urls,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        return [v for verdicts in pool.map(_run_batch, batches, folders, [urls] * len(batches)) for v in verdicts]


def _run_batch(cases: Sequence[Case], folder: Path, urls: Mapping[str, str]) -> list[Verdict]:
    folder.mkdir(parents=True)
    good = urls["a good server"]
    # The first test bears the cost of lazy imports.
    tests = [_IMPORTS, _test_of("first", good, "plain"), _test_of("good", good, "plain")]
    options = ["--comfyui-url", good]
    for number, case in enumerate(cases):
        url = urls["a good server" if case.load == "worker" else case.name]
        tests.append(_test_of(f"{number}", url, case.load))
        options += ["--comfyui-url", url] if url != good else []
        options += ["--comfyui-worker", urls[case.name]] if case.load == "worker" else []
        options += ["--comfyload-gpu", f"{url}=metrics:{url}/metrics"] if case.load == "exporter" else []
    (folder / "test_it.py").write_text("".join(tests), encoding="utf-8")
    (folder / "conftest.py").write_text(_CONFTEST, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (folder / "mine.png").write_bytes(picture())
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *ALONE, "-p", "no:xdist", "-p", "no:cacheprovider", *options],
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(),
        )
        try:
            code = process.wait(60 + len(cases) * 15)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    return _verdicts(cases, folder, code, (folder / "output").read_text(encoding="utf-8", errors="replace"))


def _test_of(number: str, url: str, load: str) -> str:
    if load == "ab":
        return _AB.format(number=number, url=url, graph=GRAPH, mark=_MARK)
    graph, more = (_UPLOADING, ', inputs={"LoadImage.image": Path("mine.png")}') if load == "upload" else (GRAPH, "")
    return _TEST.format(number=number, url=url, graph=graph, load=_LOAD, more=more)


def _environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("COMFY", "PYTEST_", "GITHUB"))}
    # Address space that threads merely reserve must not count as memory.
    return {**own, "MALLOC_ARENA_MAX": "2", "PYTHONUTF8": "1"}


def _verdicts(cases: Sequence[Case], folder: Path, code: int, output: str) -> list[Verdict]:
    stored = frozenset(path.name[:24] for path in (folder / ".comfyload" / "runs").glob("*.run"))
    verdicts = [Verdict(case, stored=stored, output=output, code=code) for case in cases]
    rows = folder / "rows.jsonl"
    usual = 0.0
    for line in rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []:
        row = json.loads(line)
        number = row.pop("name").rpartition("_")[2]
        if number == "good":
            usual = row.get("seconds", usual)
        if not number.isdecimal() or ("text" in row and verdicts[int(number)].text):
            continue
        for name, value in row.items():
            setattr(verdicts[int(number)], name, value)
    for verdict in verdicts:
        verdict.usual = usual
    return verdicts


def line_of(verdict: Verdict) -> str:
    """Return what the user is told, on one line without the parts that differ between runs."""
    if verdict.outcome == "passed":
        return "passes"
    errors = [error for load in verdict.loads for error in load["errors"]]
    line = " / ".join(sorted({_normal(error) for error in errors})) or _normal(verdict.text)
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…"


_VARIABLE = (
    (re.compile(r"http://127\.0\.0\.1:\d+"), "URL"),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"\b\d+(\.\d+)? s\b"), "N s"),
    (re.compile(r"/object_info/\w+"), "/object_info/CLASS"),
    (re.compile(r"(before its answer was complete) \(.*\)"), r"\1 (…)"),
    (re.compile(r"\s+"), " "),
)


def _normal(text: str) -> str:
    for pattern, name in _VARIABLE:
        text = pattern.sub(name, text)
    return text.strip()


# What a load may report for any server if the machine is too slow for it.
_LATE = re.compile(r"within N s|no answer in N s|given up")
# What may be reported for any flood if the machine is too slow for it.
_SATURATED = re.compile(r"Not judged: the generator was saturated")


def _is_expected(line: str, lines: str) -> bool:
    """Return whether `line` is expected: prompts may meet different faults, and different limits depending on speed."""
    return set(line.split(" / ")) <= set(lines.split(" / "))


def _read_lines() -> dict[str, str]:
    lines = Path(__file__).with_name("hostile_lines.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t", 1) for line in lines)


LONGEST_LINE = 300
# The expected line of each case; `--write` rewrites the file, whose changes must be reviewed.
LINES = _read_lines()


def main(arguments: Sequence[str]) -> int:
    words = [word for word in arguments if not word.startswith("--")]
    pattern = re.compile(words[0] if words else "")
    cases = [case for name, case in CASES.items() if pattern.search(name)]
    if "--tested" in arguments:
        cases = [case for case in cases if case.tested]
    begun = time.monotonic()
    with TemporaryDirectory(prefix="hostile-") as folder:
        verdicts = run_cases(cases, Path(folder))
    bad = 0
    for verdict in verdicts:
        found = complaints(verdict)
        bad += bool(found)
        print(f"--- {verdict.case.name}: {verdict.outcome}, {verdict.seconds:.1f} s, {verdict.memory / 2**20:.0f} MiB")
        for load in verdict.loads:
            print("  ", load["state"], load["by_status"], load["notes"], load["errors"])
        print(textwrap.indent(verdict.text, "    "))
        print(*(f"    !!! {each}\n" for each in found), sep="", end="")
    worst, most = max(v.seconds for v in verdicts), max(v.memory for v in verdicts)
    print(f"{len(verdicts)} cases, {len(verdicts) - bad} survived, in {time.monotonic() - begun:.0f} s")
    print(f"worst time {worst:.1f} s, worst memory {most / 2**20:.0f} MiB")
    if "--write" in arguments:
        said = LINES | {v.case.name: line_of(v) for v in verdicts}
        lines = [f"{name}\t{said[name]}\n" for name in CASES if name in said]
        Path(__file__).with_name("hostile_lines.txt").write_text("".join(lines), encoding="utf-8")
    outputs = {v.output: v.code for v in verdicts}
    for output, code in outputs.items():
        if len(verdicts) < 10 or code not in (0, 1) or dirt(output):
            print("=== process with code", code, dirt(output))
            if True:
                print(output)
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
