"""`comfyload ab` on a simulator: the exit status is the verdict, standard output has only the result."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pytest_comfyload.cli import app
from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.history.store import Store
from pytest_comfyload.launch.simulator import SimulatorProcess

PLAIN = ["--iterations", "1", "--pairs", "7"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with SimulatorProcess(time_scale=100) as process:
        yield process.url


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COMFYUI_URL", raising=False)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Restore the SIGTERM handler, which the command replaces in this process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def _ab(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["ab", "txt2img", *arguments])


@pytest.mark.parametrize(("a", "b", "status", "verdict"), [("10", "40", 1, "regressed"), ("40", "10", 0, "improved")])
def test_the_verdict_is_the_exit_status(a: str, b: str, status: int, verdict: str, server: str, tmp_path: Path) -> None:
    ended = _ab("--comfyui-url", server, "--a", f"KSampler.steps={a}", "--b", f"KSampler.steps={b}", *PLAIN)
    assert ended.exit_code == status, ended.output
    first, *others = ended.stdout.splitlines()
    assert first == f"ab txt2img: B against A, SIMULATED: {verdict}"
    assert f"  changed: KSampler.steps {a} → {b}" in others
    assert "comfyload: ab txt2img: 7 pairs of runs, txt2img, 1 user × 1 iteration" in ended.stderr
    assert "comfyload: 14 runs stored in" in ended.stderr
    rows = Store.open(tmp_path / ".comfyload").runs()
    assert sorted({row.test for row in rows}) == ["ab txt2img, A", "ab txt2img, B"]
    assert len(rows) == 14
    assert list((tmp_path / ".comfyload" / "spool").glob("*.jsonl")) == []


def test_few_pairs_as_json_and_nothing_kept(server: str, tmp_path: Path) -> None:
    ended = _ab(
        "--a-url", server, "--b-url", server, "--b", "KSampler.steps=21", "--pairs", "2", "--iterations", "1",
        "--comfyui-input", "EmptyLatentImage.width=256", "--store", "none", "--json",
    )  # fmt: skip
    assert ended.exit_code == 3, ended.output
    told = json.loads(ended.stdout)
    assert told["schema"] == "comfyload.ab/1"
    assert (told["verdict"], told["pairs"], told["simulated"]) == ("inconclusive", 2, True)
    assert [len(pair["A"]) for pair in told["pictures"]] == [1, 1]
    assert told["pictures"][0]["A"][0].startswith(f"{server}/view?filename=")
    assert not (tmp_path / ".comfyload").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no server: name one with --comfyui-url or COMFYUI_URL, give --a-url and --b-url, or start one with"),
        (["--a-url", "http://gpu1:8188"], "COMFYUI_URL, give --b-url, or start one with --comfyui-launch"),
        (["--comfyui-url", "gpu1"], "not a server URL: 'gpu1'"),
        (["--comfyui-url", "http://gpu1:8188", "--a", "steps"], "--a: 'steps' sets no input: write NODE.INPUT=VALUE"),
        (["--comfyui-url", "http://gpu1:8188"], "are the same load: give what differs between them"),
        (["--comfyui-url", "http://gpu1:8188", "--b", "KSampler.steps=3", "--pairs", "1"], "pairs=1: two pairs make"),
    ],
)
def test_what_cannot_be_meant_is_one_line(arguments: list[str], message: str) -> None:
    ended = _ab(*arguments)
    assert isinstance(ended.exception, ComfyloadError)
    assert message in str(ended.exception)
    assert "\n" not in str(ended.exception)


def test_an_interrupt_keeps_what_was_measured(tmp_path: Path) -> None:
    with (
        SimulatorProcess(time_scale=1, gpu="h100") as process,
        subprocess.Popen(
            [sys.executable, "-c", "from pytest_comfyload.cli import main; main()", "ab", "txt2img", "--comfyui-url",
             process.url, "--a", "KSampler.steps=3", "--b", "KSampler.steps=4", "--iterations", "100"],
            stderr=subprocess.PIPE, text=True,
        ) as child,
    ):  # fmt: skip
        assert child.stderr
        for line in child.stderr:
            # This headline means that the first measured prompt is running.
            if "run 1 of 16: txt2img" in line:
                break
        child.send_signal(signal.SIGTERM)
        said = child.stderr.read()
        assert child.wait(30) == 130
    assert "comfyload: interrupted; its prompts were deleted from the queues" in said
    assert "Traceback" not in said
    assert [row.state for row in Store.open(tmp_path / ".comfyload").runs()] == ["incomplete"]
