"""The `.github` folder: the schemas of its files, security rules, and the scripts of the workflows.

The rules keep a fork's code away from secrets, write access and GPUs.
"""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[1] / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))

# The write permissions of jobs; everything else only reads.
WRITES = {
    ("gpu-load.yml", "keep"): {"contents"},
    ("gpu.yml", "gpu"): {"contents"},  # passed on to `keep`
    ("load-comment.yml", "comment"): {"pull-requests"},
    ("load-pages.yml", "publish"): {"pages", "id-token"},
    ("release.yml", "publish"): {"id-token"},
}
# Runners hosted by GitHub, on which nothing of ours is stored.
HOSTED = {"ubuntu-latest", "macos-latest", "windows-latest"}


_COMMIT = re.compile(r"[0-9a-f]{40}")


class Broken(Exception):
    """A workflow breaks a rule."""


def _workflow(path: Path) -> dict[str, Any]:
    content: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    # In YAML 1.1, the key `on` is a boolean.
    return {"on" if key is True else key: value for key, value in content.items()}


def _triggers(workflow: dict[str, Any]) -> set[str]:
    given = workflow["on"]
    return {given} if isinstance(given, str) else set(given)


def _steps(workflow: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each step with its job."""
    for job in workflow["jobs"].values():
        for step in job.get("steps", ()):
            yield job, step


def _runs_for_itself(job: dict[str, Any]) -> bool:
    """Return whether a job may run on a self-hosted runner."""
    runner = job.get("runs-on", "ubuntu-latest")
    if runner == "${{ matrix.os }}":
        return not HOSTED.issuperset(job["strategy"]["matrix"]["os"])
    return runner not in HOSTED


def expect_no_stranger_with_our_rights(workflow: dict[str, Any]) -> None:
    if "pull_request_target" in _triggers(workflow) or "issue_comment" in _triggers(workflow):
        raise Broken("runs for strangers with the repository's own rights")
    checks_out = any(str(step.get("uses", "")).startswith("actions/checkout") for _, step in _steps(workflow))
    if "workflow_run" in _triggers(workflow) and checks_out:
        raise Broken("checks code out with the rights of the default branch")


def expect_no_expression_in_a_script(workflow: dict[str, Any]) -> None:
    """A branch name passed through `env` is text; inside a script it becomes code."""
    for _, step in _steps(workflow):
        script = str(step.get("run", "")) + str(step.get("with", {}).get("script", ""))
        if "${{" in script:
            raise Broken(f"an expression in a script: {script}")


def expect_few_permissions(workflow: dict[str, Any], name: str) -> None:
    if workflow.get("permissions") not in ({}, {"contents": "read"}):
        raise Broken("without permissions of its own, or with too many")
    for job_name, job in workflow["jobs"].items():
        permissions = job.get("permissions", {})
        if not isinstance(permissions, dict):
            raise Broken(f"{job_name} names none of its permissions")
        writes = {what for what, level in permissions.items() if level != "read"}
        if writes - WRITES.get((name, job_name), set()):
            raise Broken(f"{job_name} may write: {writes}")


def expect_no_fork_on_our_machines(workflow: dict[str, Any]) -> None:
    for job in filter(_runs_for_itself, workflow["jobs"].values()):
        condition = " ".join(str(job.get("if", "")).split())
        if "github.event.pull_request.head.repo.full_name == github.repository" not in condition:
            raise Broken("a fork's pull request comes to the GPU")
        if "pull_request_target" in condition or "workflow_run" in condition or "always()" in condition:
            raise Broken("an event that anybody can bring about comes to the GPU")
        if not job.get("environment"):
            raise Broken("nobody can be asked before the GPU is used")


def expect_all_of_history(workflow: dict[str, Any]) -> None:
    """Runs are compared with those at the merge base, so jobs that measure or keep runs need the full history."""
    for job, step in _steps(workflow):
        if str(step.get("uses", "")).startswith("actions/checkout"):
            options = step.get("with", {})
            if _runs_for_itself(job) and options.get("fetch-depth") != 0:
                raise Broken("the merge-base is not there")
            if (
                job.get("permissions", {}).get("contents") != "write"
                and options.get("persist-credentials") is not False
            ):
                raise Broken("the token stays where tests can read it")


def expect_an_end(workflow: dict[str, Any]) -> None:
    for name, job in workflow["jobs"].items():
        if "uses" not in job and not job.get("timeout-minutes"):
            raise Broken(f"{name} may run for six hours")
    for _, step in _steps(workflow):
        action, _, version = str(step.get("uses", "")).partition("@")
        own = action.startswith("actions/") or action == "pypa/gh-action-pypi-publish"
        if action and not (own and _COMMIT.fullmatch(version)):
            raise Broken(f"{action}@{version} is no action of GitHub or PyPA, pinned by commit")


RULES = [
    expect_no_stranger_with_our_rights,
    expect_no_expression_in_a_script,
    expect_no_fork_on_our_machines,
    expect_all_of_history,
    expect_an_end,
]


def test_there_are_workflows() -> None:
    assert {"ci.yml", "gpu.yml", "gpu-load.yml", "load-comment.yml", "release.yml"} <= {path.name for path in FILES}


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("github-workflows", "workflows/*.yml"),
        ("github-issue-forms", "ISSUE_TEMPLATE/*_*.yml"),
        ("github-issue-config", "ISSUE_TEMPLATE/config.yml"),
        ("dependabot", "dependabot.yml"),
    ],
)
def test_every_file_fits_its_published_schema(schema: str, pattern: str) -> None:
    files = sorted(FOLDER.parent.glob(pattern))
    assert files
    tool = Path(sys.executable).with_name("check-jsonschema")
    command: list[str | Path] = [tool, "--builtin-schema", f"vendor.{schema}", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_release_publishes_without_a_token_what_was_built_and_tried() -> None:
    release = _workflow(FOLDER / "release.yml")
    publish = release["jobs"]["publish"]
    assert release["on"] == {"push": {"tags": ["v*"]}}
    assert publish["needs"] == "build"
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"]["name"] == "pypi"
    assert "secrets." not in (FOLDER / "release.yml").read_text(encoding="utf-8")
    assert not any("run" in step for step in publish["steps"])


def test_ci_runs_on_each_python_and_system_that_the_package_claims() -> None:
    project = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    claimed = [each.rpartition(" ")[2] for each in project["classifiers"] if "Python :: 3." in each]
    jobs = _workflow(FOLDER / "ci.yml")["jobs"]
    assert claimed == jobs["tests"]["strategy"]["matrix"]["python"] == jobs["check"]["strategy"]["matrix"]["python"]
    assert set(jobs["systems"]["strategy"]["matrix"]["os"]) == HOSTED - {"ubuntu-latest"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_workflow_keeps_the_rules(path: Path) -> None:
    workflow = _workflow(path)
    expect_few_permissions(workflow, path.name)
    for expect in RULES:
        expect(workflow)


def _gpu_load() -> dict[str, Any]:
    return _workflow(FOLDER / "gpu-load.yml")


def test_the_rules_see_what_breaks_them() -> None:
    def broken(path: list[Any], value: Any) -> dict[str, Any]:
        workflow = _gpu_load()
        place: Any = workflow
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return workflow

    load = ["jobs", "load"]
    first, checkout = [*load, "steps", 0], [*load, "steps", 1]
    with pytest.raises(Broken, match="for strangers"):
        expect_no_stranger_with_our_rights(broken(["on"], {"pull_request_target": None}))
    with pytest.raises(Broken, match="checks code out"):
        expect_no_stranger_with_our_rights(broken(["on"], {"workflow_run": None}))
    with pytest.raises(Broken, match="in a script"):
        expect_no_expression_in_a_script(broken([*first, "run"], "echo ${{ github.head_ref }}"))
    with pytest.raises(Broken, match="to the GPU"):
        expect_no_fork_on_our_machines(broken([*load, "if"], "github.event_name == 'pull_request'"))
    with pytest.raises(Broken, match="be asked"):
        expect_no_fork_on_our_machines(broken([*load, "environment"], ""))
    with pytest.raises(Broken, match="merge-base"):
        expect_all_of_history(broken([*checkout, "with"], {"persist-credentials": False}))
    with pytest.raises(Broken, match="token"):
        expect_all_of_history(broken([*checkout, "with"], {"fetch-depth": 0}))
    with pytest.raises(Broken, match="may write"):
        expect_few_permissions(broken([*load, "permissions"], {"contents": "write"}), "gpu-load.yml")
    with pytest.raises(Broken, match="names none"):
        expect_few_permissions(broken([*load, "permissions"], "write-all"), "gpu-load.yml")
    with pytest.raises(Broken, match="too many"):
        expect_few_permissions(broken(["permissions"], {"contents": "write"}), "gpu-load.yml")
    with pytest.raises(Broken, match="six hours"):
        expect_an_end(broken([*load, "timeout-minutes"], None))
    for action in ("actions/checkout@v6", "other/checkout@" + 40 * "a"):
        with pytest.raises(Broken, match="pinned by commit"):
            expect_an_end(broken([*checkout, "uses"], action))


def test_the_gate_cannot_pass_on_a_simulation_and_waits_for_the_server() -> None:
    script = "\n".join(str(step.get("run", "")) for _, step in _steps(_gpu_load()))
    assert (
        script.index("comfyload wait") < script.index("--comfyload-require-server") < script.index("comfyload compare")
    )


def test_the_workflow_of_this_repository_gives_the_reusable_one_what_it_takes() -> None:
    call = _workflow(FOLDER / "gpu.yml")["jobs"]["gpu"]
    takes = _gpu_load()["on"]["workflow_call"]
    assert call["uses"] == "$/.github/workflows/gpu-load.yml"
    assert set(call["with"]) <= set(takes["inputs"])
    assert set(call["secrets"]) <= set(takes["secrets"])
    assert all("type" in each and "default" in each for each in takes["inputs"].values())


def test_the_report_is_published_from_the_stored_runs_alone(tmp_path: Path, origin: Path) -> None:
    job = _workflow(FOLDER / "load-pages.yml")["jobs"]["publish"]
    one, keeps, pages = (Machine(tmp_path / str(name), origin) for name in range(3))
    one.do("load", "Earlier runs")
    one.measure("a.run", "what a.run says")
    one.hand_over(keeps)
    keeps.do("keep", "Add them to the branch")
    _git(pages.work, "fetch", "-q", "origin")
    (script,) = [step["run"] for step in job["steps"] if step.get("name") == "Report"]
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "comfyload").write_text('#!/bin/sh\necho "$@"\n')
    (programs / "comfyload").chmod(0o755)
    environ = {**_GIT_ENVIRON, "RUNNER_TEMP": str(pages.temp), "BRANCH": "comfyload-store", "PAGES": "200"}
    environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    command = ["bash", "-eo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=pages.work, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == f"report --store {pages.temp}/store --output {pages.temp}/site --pages 200\n"
    assert (pages.temp / "store" / "runs" / "a.run").read_text() == "what a.run says"


def test_a_summary_links_to_the_published_report() -> None:
    (load,) = [step for _, step in _steps(_gpu_load()) if step.get("id") == "load"]
    assert load["env"]["COMFYLOAD_REPORT_URL"] == "${{ inputs.report-url }}"


def _cookbook_workflow() -> dict[str, Any]:
    text = (FOLDER.parents[1] / "docs" / "cookbook" / "github.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"```yaml[^\n]*\n(name: GPU load\n.+?)```", text, re.DOTALL)
    content: dict[Any, Any] = yaml.safe_load(found)
    return {"on" if key is True else key: value for key, value in content.items()}


def test_the_comment_follows_the_workflows_that_leave_it() -> None:
    comment = _workflow(FOLDER / "load-comment.yml")
    names = {_workflow(FOLDER / "gpu.yml")["name"], _cookbook_workflow()["name"]}
    assert set(comment["on"]["workflow_run"]["workflows"]) == names
    artifacts = [step["with"]["name"] for _, step in _steps(_gpu_load()) if "upload-artifact" in step.get("uses", "")]
    (pattern,) = [step["with"]["pattern"] for _, step in _steps(comment) if "uses" in step]
    assert any(fnmatch.fnmatch(artifact, pattern) for artifact in artifacts)


def test_a_fork_cannot_choose_the_text_of_the_comment() -> None:
    condition = _workflow(FOLDER / "load-comment.yml")["jobs"]["comment"]["if"]
    assert "github.event.workflow_run.head_repository.full_name == github.repository" in condition


def test_each_event_of_the_callers_is_run_and_not_skipped() -> None:
    condition = _gpu_load()["jobs"]["load"]["if"]
    for caller in (_workflow(FOLDER / "gpu.yml"), _cookbook_workflow()):
        assert {"push", "pull_request", "merge_group", "schedule"} <= _triggers(caller)
        assert all(f"{event!r}" in condition or f'"{event}"' in condition for event in _triggers(caller))
        assert set(caller["jobs"]["gpu"]["with"]) <= set(_gpu_load()["on"]["workflow_call"]["inputs"])


def test_loads_on_one_gpu_wait_for_each_other_and_none_is_dropped() -> None:
    lock = _gpu_load()["jobs"]["load"]["concurrency"]
    assert lock == {"group": "comfyload-gpu-${{ inputs.gpu-lock || inputs.runner }}", "queue": "max"}


def test_calls_of_one_run_have_artifacts_of_their_own(tmp_path: Path) -> None:
    def name(label: str, call: str) -> str:
        (script,) = [step["run"] for _, step in _steps(_gpu_load()) if step.get("id") == "id"]
        output = tmp_path / "output"
        output.write_text("")
        environ = {"PATH": os.environ["PATH"], "LABEL": label, "CALL": call, "GITHUB_OUTPUT": str(output)}
        subprocess.run(["bash", "-eo", "pipefail", "-c", script], env=environ, check=True)
        key, _, value = output.read_text().strip().partition("=")
        assert key == "id"
        return value

    names = [name("tests/a b.py", '{"suite": 1}'), name("tests/a b.py", '{"suite": 2}'), name("x\nid=evil", "{}")]
    assert len(set(names)) == len(names)
    assert names[0].startswith("tests-a-b.py-")
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,60}", each) for each in names)


# --- the branch that stores the runs ---


class Machine:
    """The folders of a runner, and a clone of `origin` to work in."""

    def __init__(self, folder: Path, origin: Path) -> None:
        self.work, self.temp = folder / "work", folder / "temp"
        self.temp.mkdir(parents=True)
        _git(folder, "clone", "-q", str(origin), "work")
        self.store, self.out = self.work / ".comfyload", self.work / ".comfyload-out"

    def do(self, job: str, step: str) -> None:
        """Run a step of the workflow as GitHub does."""
        (script,) = [each["run"] for each in _gpu_load()["jobs"][job]["steps"] if each.get("name") == step]
        folders = {"STORE": self.store, "OUT": self.out, "RUNNER_TEMP": self.temp}
        environ = {**_GIT_ENVIRON, **{name: str(path) for name, path in folders.items()}}
        environ |= {"BRANCH": "comfyload-store", "GITHUB_SHA": "0" * 40}
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        done = subprocess.run(command, cwd=self.work, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def stored(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in (self.store / "runs").glob("*.run")}

    def measure(self, name: str, content: str) -> None:
        (self.store / "runs").mkdir(exist_ok=True)
        (self.store / "runs" / name).write_text(content)

    def hand_over(self, other: Machine) -> None:
        """Hand the artifact with the new runs over to another job's machine."""
        self.do("load", "New runs")
        (other.temp / "new").mkdir(exist_ok=True)
        for path in (self.out / "runs").iterdir():
            path.rename(other.temp / "new" / path.name)


_GIT_ENVIRON = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


def _git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", *identity, *words], cwd=folder, env=_GIT_ENVIRON, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with one commit, to push to."""
    _git(tmp_path, "init", "-q", "first")
    (tmp_path / "first" / "README").write_text("code")
    _git(tmp_path / "first", "add", "README")
    _git(tmp_path / "first", "commit", "-q", "-m", "Code")
    _git(tmp_path, "clone", "-q", "--bare", "first", "origin.git")
    return tmp_path / "origin.git"


def test_runs_come_back_to_the_next_job_and_two_jobs_at_once_lose_none(tmp_path: Path, origin: Path) -> None:
    one, other, one_keeps, other_keeps = (Machine(tmp_path / str(name), origin) for name in range(4))
    for machine, name in ((one, "a.run"), (other, "b.run")):
        machine.do("load", "Earlier runs")
        assert machine.stored() == {}
        machine.measure(name, f"what {name} says")
    one.hand_over(one_keeps)
    other.hand_over(other_keeps)
    one_keeps.do("keep", "Add them to the branch")
    other_keeps.do("keep", "Add them to the branch")
    later = Machine(tmp_path / "later", origin)
    later.do("load", "Earlier runs")
    assert later.stored() == {"a.run": "what a.run says", "b.run": "what b.run says"}
    assert _git(origin, "ls-tree", "-r", "--name-only", "comfyload-store").split() == ["runs/a.run", "runs/b.run"]
    assert _git(origin, "ls-tree", "-r", "--name-only", "main").split() == ["README"]


def test_only_new_runs_are_handed_over_and_none_is_no_error(tmp_path: Path, origin: Path) -> None:
    first, keeps = Machine(tmp_path / "1", origin), Machine(tmp_path / "2", origin)
    first.do("load", "Earlier runs")
    first.measure("a.run", "first")
    first.hand_over(keeps)
    keeps.do("keep", "Add them to the branch")
    second, again = Machine(tmp_path / "3", origin), Machine(tmp_path / "4", origin)
    second.do("load", "Earlier runs")
    second.hand_over(again)
    assert list((again.temp / "new").iterdir()) == []
    again.do("keep", "Add them to the branch")
    assert _git(origin, "rev-list", "--count", "comfyload-store").strip() == "1"
