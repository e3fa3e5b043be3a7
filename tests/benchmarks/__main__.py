"""All benchmarks in one command, and BENCHMARKS.md of what they printed.

    python -m tests.benchmarks [NAME ...] [--write] [--peers PYTHON]

runs the benchmarks one after the other, each as its own command, and shows their output; NAME selects some (`startup`,
`growth`, …). `--write` writes the output to BENCHMARKS.md, with the machine, the date and the commands; the sections of
other benchmarks are left unchanged. Peers are installed from PyPI into a separate environment, or taken from the
environment of `--peers`. Use an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_comfyload.errors import nearest
from tests.real_comfyui import build

__all__ = ["COMMANDS"]

PEERS = ("locust", "pillow")

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "BENCHMARKS.md"
# Time limit of one benchmark, in seconds.
LIMIT = 1800
# By name, the arguments of Python. PEERS stands for the Python of an environment with the peers, created if not given.
COMMANDS: Mapping[str, Sequence[str]] = {
    "startup": ("-m", "tests.benchmarks.bench_startup"),
    "generator": ("-m", "tests.benchmarks.bench_generator", "PEERS"),
    "sockets": ("-m", "tests.benchmarks.bench_sockets"),
    "prompts": ("-m", "tests.benchmarks.bench_prompts"),
    "growth": ("-m", "tests.benchmarks.bench_growth"),
    "memory": ("-m", "pytest", "-q", "-s", "-n0", "tests/benchmarks/bench_memory.py"),
    "report": ("-m", "pytest", "-q", "-s", "-n0", "tests/benchmarks/bench_report.py"),
    "gpu_sampler": ("-m", "pytest", "-q", "-s", "-n0", "tests/benchmarks/bench_gpu_sampler.py"),
    "coverage": ("-m", "tests.benchmarks.bench_coverage", "100"),
    "gate": ("-m", "tests.benchmarks.bench_gate", "200"),
    "monitor": ("-m", "tests.benchmarks.bench_monitor", "--seconds", "30"),
    "gateway": ("-m", "tests.benchmarks.bench_gateway"),
    "capacity": ("-m", "tests.benchmarks.bench_capacity"),
    "plan": ("-m", "tests.benchmarks.bench_plan"),
    "strategies": ("-m", "tests.benchmarks.bench_strategies"),
    "soak": ("-m", "tests.benchmarks.soak", "--prompts", "20000"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(COMMANDS)} (default: all)")
    parser.add_argument("--write", action="store_true", help="write BENCHMARKS.md")
    parser.add_argument("--peers", metavar="PYTHON", help="the Python of an environment with locust and pillow")
    chosen = parser.parse_args()
    for name in chosen.names:
        if name not in COMMANDS:
            parser.error(f"no benchmark {name!r}; legal: {nearest(name, COMMANDS)}")
    failed = 0
    for name in chosen.names or COMMANDS:
        command = [chosen.peers or _peers() if each == "PEERS" else each for each in COMMANDS[name]]
        printed, status = _run(command)
        failed += status != 0
        if chosen.write:
            _write(name, printed, status)
    return min(failed, 1)


def _peers() -> str:
    """Return the Python of an environment with the peers, which the first call creates."""

    def make(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", *PEERS], check=True)

    return str(build.built_once("peers", " ".join(PEERS).encode(), make) / "bin" / "python")


def _run(command: Sequence[str]) -> tuple[str, int]:
    """Run one benchmark, show its output as it is printed, and return the output with the exit status."""
    print(f"$ python {' '.join(command)}", flush=True)
    lines = []
    with subprocess.Popen(
        ["timeout", str(LIMIT), sys.executable, *command],
        cwd=HERE.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return "".join(lines), child.returncode


def _write(name: str, printed: str, status: int) -> None:
    """Write the section of a benchmark into the page; the other sections stay."""
    sections = _sections()
    failed = f"\nIt ended with exit status {status}.\n" if status else ""
    when = datetime.datetime.now(datetime.UTC).date()
    sections[name] = (
        f"{_title(COMMANDS[name])}\n\n{when}, {_commit()}, {_machine()}.\n\n"
        f"```\n$ python {' '.join(COMMANDS[name])}\n{printed.strip()}\n```\n{failed}"
    )
    ordered = [key for key in COMMANDS if key in sections]
    body = "\n".join(f"## {key}\n\n{sections[key].strip()}\n" for key in ordered)
    PAGE.write_text(f"{_HEAD}\n{body}", encoding="utf-8")


_HEAD = """# Benchmarks

What `python -m tests.benchmarks --write` printed. Figures of two things are of one run, in which they took turns;
compare their ratios. Absolute times are of the machine named.
"""


def _sections() -> dict[str, str]:
    """Return the sections of the page by name, without their headings."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    parts = re.split(r"^## (\w+)\n\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _title(command: Sequence[str]) -> str:
    """Return the first paragraph of a benchmark's docstring."""
    path = next(each for each in command if "benchmarks" in each)
    source = HERE.parents[1] / (path if path.endswith(".py") else path.replace(".", "/") + ".py")
    docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n\n")[0].replace("\n", " ")


def _machine() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    model = found[1] if found else platform.processor() or platform.machine()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("pytest", "httpx", "aiohttp"))
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}, {versions}"


def _commit() -> str:
    """Return the commit, and whether anything but the page differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=PAGE.parent, capture_output=True, text=True, check=False).stdout

    commit = git("rev-parse", "--short", "HEAD").strip() or "unknown"
    changed = git("status", "--porcelain", "--", ".", f":!{PAGE.name}")
    return f"commit {commit}{', changed' if changed else ''}"


if __name__ == "__main__":
    sys.exit(main())
