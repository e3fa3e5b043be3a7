"""`comfyload init` as a person types it: the suite it writes passes at once, also in a custom node's repository."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_comfyload.workflow.workflow import Workflow
from tests.history.repository import Repository

_SCRIPTS = Path(sys.executable).parent
# What git, Python and pytest create.
_MADE = {".git", ".comfyload", "__pycache__", ".pytest_cache"}
_PLUGINS = ["-p", "no:anyio", "-p", "no:hypothesispytest", "-p", "no:benchmark", "-p", "no:xdist"]
# Like those of real packs: their modules import torch, ComfyUI's own modules, and each other.
_NODE = {
    "__init__.py": "import torch\nfrom .nodes.blur import NODE_CLASS_MAPPINGS\n\n__all__ = ['NODE_CLASS_MAPPINGS']\n",
    "nodes/__init__.py": "",
    "nodes/blur.py": "import torch\nimport comfy.utils\n\nNODE_CLASS_MAPPINGS = {}\n",
    "tests/__init__.py": "",
    "tests/test_blur.py": "from ..nodes.blur import NODE_CLASS_MAPPINGS\n\n\ndef test_blur():\n    pass\n",
    "pyproject.toml": '[project]\nname = "comfyui-soft-blur"\nversion = "1.0.0"\n',
}


@pytest.fixture
def node(tmp_path: Path) -> Repository:
    """Create a custom node's repository whose name is not a Python identifier."""
    repository = Repository.begin(tmp_path / "ComfyUI-Soft-Blur")
    for name, text in _NODE.items():
        path = repository.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    repository.git("add", ".")
    repository.commit("nodes")
    return repository


def _run(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_SCRIPTS / program, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def _init(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = _run(folder, "comfyload", "init", *arguments)
    assert done.returncode == 0, done.stderr
    return done


def _passing(folder: Path, suite: str) -> str:
    """Return what pytest prints; retried, as a shared machine may stall for longer than the suite's bounds allow."""
    for _ in range(3):
        ran = _run(folder, "pytest", suite, *_PLUGINS)
        if ran.returncode == 0:
            break
    assert "1 passed" in ran.stdout, ran.stdout
    return ran.stdout


def _files(folder: Path) -> dict[str, str]:
    listed = (path for path in folder.rglob("*") if path.is_file() and not _MADE.intersection(path.parts))
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in listed}


def test_a_suite_for_a_node_is_written_measured_and_passes_as_printed(node: Repository) -> None:
    before = _files(node.path)
    done = _init(node.path, "--ci", "github")
    assert done.stdout.splitlines() == [
        "written: load_tests/pytest.ini",
        "written: load_tests/test_txt2img.py",
        "written: .github/workflows/load-tests.yml",
        "written: .gitignore",
        "next: pytest load_tests",
    ]
    assert re.search(
        r"embedded simulator: ComfyUI \S+ on SIMULATED NVIDIA GeForce RTX 4090: \d+ node classes, ", done.stderr
    )
    assert re.search(r"comfyload: one prompt takes [\d.]+ s; 10 prompts take [\d.]+ s", done.stderr)
    assert {name: text for name, text in _files(node.path).items() if name in before} == before
    assert "1 run stored in .comfyload;" in _passing(node.path, "load_tests")
    written = _files(node.path)
    again = _init(node.path, "--ci", "github")
    assert again.stdout.splitlines()[0].startswith("load_tests/test_txt2img.py already exists: nothing is measured")
    assert [line for line in again.stdout.splitlines() if line.startswith(("written", "kept"))] == []
    assert _files(node.path) == written


def test_an_own_workflow_on_a_server(node: Repository, simulator: str) -> None:
    graph = Workflow.load("txt2img").graph
    (node.path / "my export.json").write_text(json.dumps({"prompt": graph, "extra_data": {"key": "secret"}}))
    done = _init(node.path / "tests", "--comfyui-url", simulator, "--workflow", "../my export.json")
    assert "next: pytest load_tests\n" in done.stdout
    suite = node.path / "tests" / "load_tests"
    assert json.loads((suite / "my_export.json").read_text(encoding="utf-8")) == graph
    assert '@load_scenario("my_export.json", users=2, ' in (suite / "test_my_export.py").read_text(encoding="utf-8")
    assert f"\ncomfyui_url = {simulator}\n" in (suite / "pytest.ini").read_text(encoding="utf-8")
    assert simulator in _passing(node.path, "tests/load_tests")


_LOAD_TEST = "def test_load(run_load):  # of comfyload\n    pass\n"
_FILTER = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "comfyload/photo.png"}},
    "2": {"class_type": "SoftBlur", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "mine"}},
}


def test_a_workflow_without_a_seed_gets_pictures_that_differ(node: Repository) -> None:
    (node.path / "blur.json").write_text(json.dumps(_FILTER))
    _init(node.path, "--workflow", "blur.json", "--simulate")
    written = (node.path / "load_tests" / "test_blur.py").read_text(encoding="utf-8")
    assert '@load_scenario("blur.json", must_run=["SoftBlur"], users=2, iterations=5)' in written
    assert "1 run stored in .comfyload;" in _passing(node.path, "load_tests")


def test_a_workflow_that_cannot_be_varied_is_refused_with_an_input_to_draw(node: Repository) -> None:
    source = {"1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 7}}}
    (node.path / "blur.json").write_text(json.dumps(_FILTER | source))
    done = _run(node.path, "comfyload", "init", "--workflow", "blur.json", "--simulate")
    assert done.returncode == 2
    assert "nothing is written: must_run: nothing that feeds node 2 SoftBlur can be varied" in done.stderr
    assert "inputs={'EmptyImage.width': [..., ...]}" in done.stderr
    assert not (node.path / "load_tests").exists()


def test_a_load_test_in_a_package_that_needs_torch_has_no_traceback(node: Repository) -> None:
    (node.path / "tests" / "test_load.py").write_text(_LOAD_TEST, encoding="utf-8")
    ran = _run(node.path, "pytest", "tests/test_load.py", *_PLUGINS)
    (error,) = [line for line in ran.stdout.splitlines() if line.startswith("pytest cannot import ")]
    assert f"{node.path}/__init__.py, the package around this test: No module named 'torch'. Keep" in error
    assert len(ran.stdout.splitlines()) < 30
    assert "importlib" in _run(node.path, "pytest", "-vv", "tests/test_load.py", *_PLUGINS).stdout


def test_credentials_are_written_nowhere(tmp_path: Path, simulator: str) -> None:
    done = _init(tmp_path, "--comfyui-url", simulator.replace("http://", "http://ada:sesame@"))
    assert f"credentials are written nowhere: set COMFYUI_URL or COMFYUI_HEADERS for {simulator}" in done.stdout
    assert "sesame" not in done.stdout + done.stderr + "".join(_files(tmp_path).values())


def test_in_a_terminal_it_asks(tmp_path: Path, simulator: str) -> None:
    pty = pytest.importorskip("pty")
    controller, terminal = pty.openpty()
    os.write(controller, f"{simulator}\n\ny\nwoodpecker\ngitlab\n".encode())
    try:
        done = subprocess.run(
            [_SCRIPTS / "comfyload", "init"], stdin=terminal, capture_output=True, text=True, cwd=tmp_path, timeout=60
        )
    finally:
        os.close(terminal)
        os.close(controller)
    assert done.returncode == 0, done.stderr
    assert "written: .gitlab-ci.yml" in done.stdout
    assert "Measure them? [Y/n]" in done.stderr
    assert "'woodpecker' is not one of github, gitlab, jenkins, none" in done.stderr


@pytest.mark.parametrize("name", ["ComfyUI-Soft-Blur", "soft_blur"])
def test_where_pytest_imports_the_node_a_hint_says_what_to_do(node: Repository, name: str) -> None:
    folder = node.path.rename(node.path.with_name(name))
    (folder / "tests" / "test_load.py").write_text(_LOAD_TEST, encoding="utf-8")
    (folder / "__init__.py").write_text("import a_module_that_is_missing\n", encoding="utf-8")
    for test, hinted in (("tests/test_load.py", True), ("tests/test_blur.py", False)):
        ran = _run(folder, "pytest", test, *_PLUGINS)
        assert ran.returncode in (1, 2)
        hints = [line for line in ran.stdout.splitlines() if line.startswith(("hint: ", "pytest cannot import "))]
        assert len(hints) == hinted
        assert all("No module named 'a_module_that_is_missing'" in hint for hint in hints)
        assert all(hint.endswith(": `comfyload init` writes one, load_tests") for hint in hints)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["file.txt"], "file.txt is a file; give the folder of your project"),
        (["--simulate", "--comfyui-url", "http://127.0.0.1:1"], "--simulate and --comfyui-url contradict each other"),
        (["--comfyui-url", "gpu1"], "not a server URL: 'gpu1'"),
        (["--comfyui-url", "http://127.0.0.1:1"], "http://127.0.0.1:1"),
        (["--workflow", "none.json"], "none.json"),
        (["--workflow", "editor.json"], "export it with Workflow > Export (API)"),
        (["--workflow", "file.txt"], "file.txt"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "file.txt").write_text("no workflow", encoding="utf-8")
    (tmp_path / "editor.json").write_text('{"nodes": [{"id": 1, "type": "KSampler"}], "links": []}', encoding="utf-8")
    before = _files(tmp_path)
    done = _run(tmp_path, "comfyload", "init", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert _files(tmp_path) == before
