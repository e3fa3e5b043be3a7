"""What `comfyload init` writes is valid, safe to write, and never replaces a user's file."""

from __future__ import annotations

import ast
import datetime
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import UsageError
from pytest_comfyload.starter.measurement import Measurement, bound_above
from pytest_comfyload.starter.suite import CI_SYSTEMS, ci_files, ci_of, ignore_store, suite_files, write
from pytest_comfyload.starter.survey import StarterWorkflow, Survey, shipped_workflow

TODAY = datetime.date(2026, 11, 29)
MEASURED = Measurement(2, 5, generation=1.351, total=2.62)
FOUND = Survey("0.3.75", ("cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync",), 600, (), simulated=False)


def test_the_suite_says_what_was_measured_and_where() -> None:
    files = suite_files(StarterWorkflow("txt2img"), MEASURED, FOUND, "http://gpu1:8188", TODAY)
    assert list(files) == ["pytest.ini", "test_txt2img.py"]
    assert "\n[pytest]\ncomfyui_url = http://gpu1:8188\n" in files["pytest.ini"]
    suite = files["test_txt2img.py"]
    assert "on 2026-11-29" in suite
    assert "\nMeasured with 10 prompts by 2 users on: NVIDIA GeForce RTX 4090.\n" in suite
    assert '@load_scenario("txt2img", users=2, iterations=5)\ndef test_txt2img(load: LoadResult) -> None:' in suite
    assert "    assert load.generation_time.p50 < 2.5  # seconds on the server; measured: 1.35\n" in suite
    assert "    assert load.total_time.p50 < 4  # seconds, with the wait in the queue; measured: 2.62\n" in suite
    assert "time_scale" not in files["pytest.ini"]
    assert all(len(line) <= 120 for text in files.values() for line in text.splitlines())


@given(device=st.text(max_size=200), checkpoint=st.text(min_size=1, max_size=80), name=st.text(min_size=1, max_size=40))
def test_names_of_servers_and_files_never_become_code(device: str, checkpoint: str, name: str) -> None:
    found = Survey("1", (device,), 1, (checkpoint,), simulated=True)
    for workflow in (shipped_workflow([checkpoint]), StarterWorkflow(StarterWorkflow(name).name + ".json")):
        files = suite_files(workflow, MEASURED, found, None, TODAY)
        (module,) = (ast.parse(text.encode()) for file, text in files.items() if file.endswith(".py"))
        docstring, imported, test = module.body
        assert isinstance(docstring, ast.Expr)
        assert isinstance(imported, ast.ImportFrom)
        assert isinstance(test, ast.FunctionDef)
        assert len(test.body) == 4


@given(st.floats(min_value=1e-4, max_value=1e6))
def test_bounds_are_round_and_leave_half_as_much_again(measured: float) -> None:
    assert 1.5 * measured * 0.999 <= bound_above(measured) <= 1.5 * 1.35 * measured
    assert len(f"{bound_above(measured):g}".strip("0").replace(".", "").strip("0")) <= 2 or measured > 1e5


@pytest.mark.parametrize(
    ("checkpoints", "name", "inputs"),
    [
        (["v1-5-pruned-emaonly.safetensors", "b"], "txt2img", {}),
        (["sdxl_base.safetensors"], "txt2img_sdxl", {"CheckpointLoaderSimple.ckpt_name": "sdxl_base.safetensors"}),
        (["sdXL.ckpt", "my_sd15.ckpt"], "txt2img", {"CheckpointLoaderSimple.ckpt_name": "my_sd15.ckpt"}),
        (["mine.safetensors"], "txt2img", {"CheckpointLoaderSimple.ckpt_name": "mine.safetensors"}),
    ],
)
def test_a_shipped_workflow_has_a_checkpoint_of_the_server(
    checkpoints: list[str], name: str, inputs: dict[str, str]
) -> None:
    assert shipped_workflow(checkpoints) == StarterWorkflow(name, inputs=inputs)


def test_without_a_checkpoint_an_own_workflow_is_asked_for() -> None:
    with pytest.raises(UsageError, match=r"no checkpoint .* give --workflow FILE"):
        shipped_workflow([])


# --- CI ---


@pytest.mark.parametrize(("system", "schema"), [("github", "github-workflows"), ("gitlab", "gitlab-ci")])
@pytest.mark.parametrize("simulated", [False, True])
def test_ci_files_obey_the_published_schemas(tmp_path: Path, system: str, schema: str, simulated: bool) -> None:
    pytest.importorskip("check_jsonschema")
    ((_, text),) = ci_files(system, "load_tests", simulated=simulated).items()  # type: ignore[arg-type]
    file = tmp_path / "ci.yml"
    file.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("system", CI_SYSTEMS)
def test_a_ci_file_runs_the_suite_on_a_real_server_only_where_it_was_measured_on_one(system: str) -> None:
    for simulated in (False, True):
        for text in ci_files(system, "nodes/load_tests", simulated=simulated).values():  # type: ignore[arg-type]
            real = "" if simulated else " --comfyload-require-server"
            assert f"pytest nodes/load_tests{real} --junitxml=junit.xml" in text
            assert "$suite" not in text


def test_a_name_that_a_shell_would_read_otherwise_is_refused() -> None:
    with pytest.raises(UsageError, match="is not a name for a CI file"):
        ci_files("github", "$(reboot)/load_tests", simulated=True)


def test_the_ci_system_is_that_of_the_project(tmp_path: Path) -> None:
    assert ci_of(tmp_path, None) == "none"
    assert ci_of(tmp_path, "git@gitlab.com:team/node.git") == "gitlab"
    (tmp_path / ".github").mkdir()
    assert ci_of(tmp_path, "git@gitlab.com:team/node.git") == "github"
    (tmp_path / ".github").rmdir()
    (tmp_path / "Jenkinsfile").touch()
    assert ci_of(tmp_path, None) == "jenkins"


# --- writing ---


def test_what_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    first = write({"mine.txt": "ours", "folder/new.txt": "ours"}, tmp_path)
    assert [(each.path.name, each.state) for each in first] == [("new.txt", "written"), ("mine.txt", "kept")]
    assert (tmp_path / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert (tmp_path / "mine.txt.new").read_text(encoding="utf-8") == "ours"
    again = write({"mine.txt": "ours", "folder/new.txt": "ours"}, tmp_path)
    assert [each.state for each in again] == ["unchanged", "kept"]
    assert sorted(path.name for path in tmp_path.rglob("*.txt*")) == ["mine.txt", "mine.txt.new", "new.txt"]


@pytest.mark.parametrize(("there", "then"), [(None, ".comfyload/\n"), ("venv", "venv\n.comfyload/\n")])
def test_git_ignores_the_store(tmp_path: Path, there: str | None, then: str) -> None:
    assert ignore_store(tmp_path) == []
    (tmp_path / ".git").mkdir()
    if there is not None:
        (tmp_path / ".gitignore").write_text(there, encoding="utf-8")
    for _ in range(2):
        ignore_store(tmp_path)
        assert (tmp_path / ".gitignore").read_text(encoding="utf-8") == then
