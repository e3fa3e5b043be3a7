"""`comfyload ab` on servers that it starts, from installations whose ComfyUI is the simulator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pytest_comfyload.cli import app
from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.store import Store
from tests.launch.fake_installation import installation
from tests.launch.test_installation import checksum
from tests.run.test_custom_nodes import git

WORKFLOW = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SlowNode", "inputs": {"seed": 0, "image": ["1", 0]}},
    "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
}
# The median of two prompts is the faster one: a stall of the machine lengthens only one of them.
FEW = ["--iterations", "2", "--pairs", "7"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a folder with an installation, a workflow, and a node that takes 2 s, then 8 s, then 8 s spelled 8.0."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COMFYUI_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    installation(tmp_path / "ComfyUI")
    (tmp_path / "workflow.json").write_text(json.dumps(WORKFLOW))
    node = tmp_path / "my_node"
    node.mkdir()
    git(node, "init", "-q", "-b", "main")
    for tag, seconds in (("fast", "2"), ("slow", "8"), ("same", "8.0")):
        (node / "seconds").write_text(seconds)
        git(node, "add", "-A")
        git(node, "commit", "-q", "-m", tag)
        git(node, "tag", tag)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def _ab(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["ab", "workflow.json", *arguments])


def _node(*arguments: str) -> Result:
    return _ab("--comfyui-launch", "ComfyUI", "--node", "my_node", *arguments)


def _left(here: Path) -> list[Path]:
    return list(here.glob("temporary/comfyload-*-launched/*"))


def test_a_slower_commit_is_named(here: Path) -> None:
    before = checksum(here / "ComfyUI"), checksum(here / "my_node")
    ended = _node("--base", "fast", *FEW)
    assert ended.exit_code == 1, ended.output
    first, own, whole, *others = ended.stdout.splitlines()
    assert first == "ab workflow: B against A, SIMULATED: regressed"
    assert own.startswith("  B is worse: node_time[SlowNode].p50 ×")
    assert whole.startswith("  B is worse: generation_time.p50 ×")
    fast, same = (git(here / "my_node", "rev-parse", "--short=7", tag) for tag in ("fast", "same"))
    assert f"  changed: custom node my_node {fast} → {same}" in others
    assert "  pictures: 14 pairs of the same seeds, 14 of them identical" in others
    assert f"A: my_node {fast}; B: my_node {same}" in ended.stderr
    assert (checksum(here / "ComfyUI"), checksum(here / "my_node")) == before
    assert git(here / "my_node", "worktree", "list").count("\n") == 0
    assert _left(here) == []
    assert len(list((here / ".comfyload" / "logs").iterdir())) == 8  # one start for each change of sides, ABBA
    assert len({row.test for row in Store.open(here / ".comfyload").runs()}) == 2


def test_the_same_commit_twice_as_json() -> None:
    ended = _node("--base", "slow", "--head", "same~1", "--json", "--iterations", "1", "--pairs", "2")
    assert ended.exit_code == 3, ended.output
    told = json.loads(ended.stdout)
    assert told["gates"] == {"node_time[SlowNode].p50": "inconclusive", "generation_time.p50": "inconclusive"}
    assert told["labels"][0] == told["labels"][1]
    assert told["notes"] == ["A and B are the same commit of my_node: what differs is noise"]


def test_what_is_not_committed_is_compared_and_said(here: Path) -> None:
    (here / "my_node" / "seconds").write_text("9")
    (here / "my_node" / "requirements.txt").write_text("scipy\n")
    ended = _node("--base", "fast", "--gate", "node_time[SlowNode].p50", "--iterations", "1", "--pairs", "2")
    assert ended.exit_code == 3, ended.output
    same = git(here / "my_node", "rev-parse", "--short=7", "same")
    assert f"→ {same}+dirty" in ended.stdout
    assert "  note: B: my_node with changes that are not committed" in ended.stdout
    assert (
        "note: requirements.txt of my_node differs between A and B; both ran with the packages that are" in ended.stdout
    )
    assert "generation_time.p50" not in ended.stdout


def test_the_first_pair_that_fails_is_the_last(here: Path) -> None:
    missing = {**WORKFLOW, "4": {"class_type": "LoadImage", "inputs": {"image": "no such picture.png"}}}
    missing["5"] = {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}}
    (here / "workflow.json").write_text(json.dumps(missing))
    ended = _node("--base", "fast", *FEW)
    assert ended.exit_code == 2, ended.output
    assert (
        "Not judged: A of pair 1: no prompt succeeded; the first ended as partial: the server dropped" in ended.stdout
    )
    assert _left(here) == []


def test_two_installations(here: Path) -> None:
    other = installation(here / "Other")
    for folder, seconds in ((here / "ComfyUI", "2"), (other, "8")):
        (folder / "custom_nodes" / "my_node" / "seconds").write_text(seconds)
    ended = _ab("--comfyui", "ComfyUI", "Other", "--iterations", "1", "--pairs", "2")
    assert ended.exit_code == 3, ended.output
    assert f"  changed: {here / 'ComfyUI'} → {other}" in ended.stdout


def test_two_commits_of_comfyui(here: Path) -> None:
    comfyui = here / "ComfyUI"
    git(comfyui, "init", "-q", "-b", "main")
    (comfyui / ".gitignore").write_text("models\ncustom_nodes\n")
    (comfyui / "custom_nodes" / "my_node" / "seconds").write_text("3")
    git(comfyui, "add", "-A")
    git(comfyui, "commit", "-q", "-m", "old")
    (comfyui / "main.py").write_text(
        (comfyui / "main.py").read_text().replace('"--strict"]', '"--strict", "--comfyui-version", "0.3.75"]')
    )
    git(comfyui, "commit", "-q", "-a", "-m", "new")
    before = checksum(comfyui)
    ended = _ab("--comfyui-launch", "ComfyUI", "--git-ref", "main~1", "main", "--iterations", "1", "--pairs", "2")
    assert ended.exit_code == 3, ended.output
    assert "  changed: ComfyUI 0.33.0 → 0.3.75" in ended.stdout
    old, new = (git(comfyui, "rev-parse", "--short=7", ref) for ref in ("main~1", "main"))
    assert f"A: ComfyUI {old}; B: ComfyUI {new}" in ended.stderr
    assert checksum(comfyui) == before


def test_two_models_on_one_server_that_is_started(here: Path) -> None:
    ended = CliRunner().invoke(
        app,
        ["ab", "txt2img", "--comfyui-launch", "ComfyUI", "--models", "sd_xl_base_1.0.safetensors",
         "v1-5-pruned-emaonly.safetensors", "--iterations", "1", "--pairs", "2"],
    )  # fmt: skip
    assert ended.exit_code == 3, ended.output
    assert "  changed: CheckpointLoaderSimple.ckpt_name sd_xl_base_1.0.safetensors (" in ended.stdout
    assert ") → v1-5-pruned-emaonly.safetensors (" in ended.stdout
    assert len(list((here / ".comfyload" / "logs").iterdir())) == 1


def test_an_embedded_simulator() -> None:
    ended = CliRunner().invoke(
        app,
        ["ab", "txt2img", "--simulated-gpu", "rtx3060", "--a", "KSampler.steps=4", "--b", "KSampler.steps=20",
         "--must-run", "KSampler", *FEW],
    )  # fmt: skip
    assert ended.exit_code == 1, ended.output
    assert "SIMULATED: regressed" in ended.stdout


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_the_middle(here: Path, number: signal.Signals) -> None:
    before = checksum(here / "ComfyUI"), checksum(here / "my_node")
    command = [sys.executable, "-c", "from pytest_comfyload.cli import main; main()", "ab", "workflow.json"]
    with subprocess.Popen(
        [*command, "--comfyui-launch", "ComfyUI", "--node", "my_node", "--base", "fast"],
        stderr=subprocess.PIPE, text=True, cwd=here,
    ) as child:  # fmt: skip
        assert child.stderr
        for line in child.stderr:
            if "pair 1 of 8" in line:
                break
        (pids,) = here.glob("temporary/comfyload-*-launched/*/pids")
        server = int(pids.read_text().split()[-1])
        child.send_signal(number)
        child.stderr.read()
        assert child.wait(60) == (130 if number is signal.SIGTERM else -9)
    assert (checksum(here / "ComfyUI"), checksum(here / "my_node")) == before
    assert git(here / "my_node", "worktree", "list").count("\n") == 0
    if number is signal.SIGTERM:
        assert _left(here) == []
    ended = _node("--base", "fast", "--iterations", "1", "--pairs", "2")
    assert ended.exit_code == 3, ended.output
    assert _left(here) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(server, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--node", "my_node", "--base", "fast"], "--node needs a server to run in: add --comfyui-launch=DIR"),
        (["--comfyui-launch", "ComfyUI", "--node", "my_node"], "--node and --base belong together"),
        (["--comfyui-launch", "ComfyUI", "--head", "fast"], "--head is a commit of a custom node"),
        (["--comfyui-launch", "ComfyUI"], "are the same load: give what differs between them"),
        (["--comfyui-launch", "ComfyUI", "--comfyui", "a", "b"], "leave out --comfyui-launch"),
        (["--comfyui-launch", "ComfyUI", "--comfyui-url", "http://gpu1:8188"], "http://gpu1:8188 is named: leave one"),
        (["--comfyui-launch", "ComfyUI", "--node", "my_node", "--base", "nowhere"], "nowhere is not a commit of"),
        (["--comfyui-launch", "ComfyUI", "--git-ref", "a", "b"], "a is not a commit of"),
        (["--git-ref", "a", "b"], "--git-ref names commits of ComfyUI: add --comfyui-launch=DIR"),
        (["--comfyui-launch", "ComfyUI", "--models", "a", "b"], "with one loader of a checkpoint, and workflow.json"),
    ],
)
def test_invalid_options(arguments: list[str], message: str) -> None:
    ended = _ab(*arguments)
    assert isinstance(ended.exception, UsageError), ended.output
    assert message in str(ended.exception)


def test_a_workflow_without_the_node(here: Path) -> None:
    ended = CliRunner().invoke(
        app, ["ab", "txt2img", "--comfyui-launch", "ComfyUI", "--node", "my_node", "--base", "fast"]
    )
    assert "no node of the workflow is of the custom node; its classes: SlowNode" in str(ended.exception)
    assert _left(here) == []
