"""Versions of a custom node are taken from its repository, which is left unchanged."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.run.custom_nodes import changed_requirements, find_node, parse_node
from tests.launch.test_installation import checksum


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always", *words],
        cwd=folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


def repository(folder: Path, *versions: str) -> Path:
    """Create a repository on branch `main` with one commit per version, each the content of `node.py`."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    for version in versions:
        (folder / "node.py").write_text(version)
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "--allow-empty", "-m", version)
    return folder


@pytest.fixture
def custom_nodes(tmp_path: Path) -> Path:
    folder = tmp_path / "ComfyUI" / "custom_nodes"
    folder.mkdir(parents=True)
    return folder


def test_two_commits(tmp_path: Path, custom_nodes: Path) -> None:
    folder = repository(tmp_path / "my_node", "old", "new")
    before = checksum(folder)
    for ref, content in (("main~1", "old"), ("main", "new"), ("HEAD", "new"), (None, "new")):
        node = find_node(folder, ref, custom_nodes)
        assert (node.name, node.version) == ("my_node", git(folder, "rev-parse", ref or "HEAD")[:7])
        target = tmp_path / f"base {ref}" / "custom_nodes" / "my_node"
        node.put(target)
        assert (target / "node.py").read_text() == content
        assert git(target, "rev-parse", "HEAD") == node.commit
    assert git(folder, "worktree", "list").count("\n") == 0
    assert checksum(folder) == before


def test_the_working_tree_with_what_is_not_committed(tmp_path: Path, custom_nodes: Path) -> None:
    folder = repository(tmp_path / "my_node", "old")
    (folder / ".gitignore").write_text("*.bin\n")
    (folder / "node.py").write_text("changed")
    (folder / "sub").mkdir()
    (folder / "sub" / "new.py").write_text("new")
    (folder / "weights.bin").write_text("ignored")
    before = checksum(folder)
    node = find_node(folder, None, custom_nodes)
    assert node.version == f"{git(folder, 'rev-parse', 'HEAD')[:7]}+dirty"
    node.put(tmp_path / "base" / "my_node")
    copied = {str(path.relative_to(tmp_path / "base" / "my_node")) for path in (tmp_path / "base").rglob("*.*")}
    assert copied == {".gitignore", "node.py", "sub/new.py"}
    assert (tmp_path / "base" / "my_node" / "node.py").read_text() == "changed"
    assert checksum(folder) == before


def test_submodules_come_from_the_working_tree(tmp_path: Path, custom_nodes: Path) -> None:
    part = repository(tmp_path / "part", "of the part")
    folder = repository(tmp_path / "my_node", "old")
    git(folder, "submodule", "--quiet", "add", str(part), "lib/part")
    git(folder, "commit", "-q", "-m", "with a part")
    find_node(folder, "main", custom_nodes).put(tmp_path / "base" / "my_node")
    assert (tmp_path / "base" / "my_node" / "lib" / "part" / "node.py").read_text() == "of the part"
    git(folder, "submodule", "--quiet", "deinit", "--force", "lib/part")
    with pytest.raises(UsageError, match=r"the submodule lib/part of .* is not there at .*git submodule update --init"):
        find_node(folder, "main", custom_nodes).put(tmp_path / "other" / "my_node")


def test_a_node_in_a_folder_of_its_repository(tmp_path: Path, custom_nodes: Path) -> None:
    top = repository(tmp_path / "monorepo", "old")
    (top / "nodes" / "blur").mkdir(parents=True)
    (top / "nodes" / "blur" / "__init__.py").write_text("blur")
    git(top, "add", "-A")
    git(top, "commit", "-q", "-m", "blur")
    node = find_node(top / "nodes" / "blur", "main", custom_nodes)
    assert node.name == "blur"
    (tmp_path / "base" / "custom_nodes").mkdir(parents=True)
    node.put(tmp_path / "base" / "custom_nodes" / "blur")
    assert (tmp_path / "base" / "custom_nodes" / "blur" / "__init__.py").read_text() == "blur"


def test_the_name_is_that_of_the_installation(tmp_path: Path, custom_nodes: Path) -> None:
    folder = repository(tmp_path / "dev", "old")
    assert find_node(folder, "main", custom_nodes).name == "dev"
    git(folder, "remote", "add", "origin", "https://example.org/node.git")
    installed = repository(custom_nodes / "ComfyUI-Node", "old")
    assert find_node(folder, "main", custom_nodes).name == "dev"
    git(installed, "remote", "add", "origin", "https://example.org/node.git")
    assert find_node(folder, "main", custom_nodes).name == "ComfyUI-Node"
    (custom_nodes / "linked").symlink_to(folder)
    assert find_node(folder, "main", custom_nodes).name == "linked"


def test_the_name_in_a_linked_worktree(tmp_path: Path, custom_nodes: Path) -> None:
    folder = repository(tmp_path / "my_node", "old")
    git(folder, "worktree", "add", "-q", str(tmp_path / "elsewhere"), "-b", "other")
    assert find_node(tmp_path / "elsewhere", None, custom_nodes).name == "my_node"


def test_without_git_the_folder_is_copied(tmp_path: Path, custom_nodes: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "node.py").write_text("plain")
    node = find_node(folder, None, custom_nodes)
    assert (node.name, node.version) == ("plain", "uncommitted")
    node.put(tmp_path / "base" / "plain")
    assert (tmp_path / "base" / "plain" / "node.py").read_text() == "plain"
    with pytest.raises(UsageError, match=r"main is not a commit of .*/plain: .* is not in a git repository"):
        find_node(folder, "main", custom_nodes)


@pytest.mark.parametrize("ref", ["no-such-branch", "--upload-pack=evil", "a\0b"])
def test_what_is_no_commit(tmp_path: Path, custom_nodes: Path, ref: str) -> None:
    folder = repository(tmp_path / "my_node", "old")
    with pytest.raises(UsageError, match=r"is not a commit of .*fetch it first"):
        find_node(folder, ref, custom_nodes)
    with pytest.raises(UsageError, match="there is no such folder"):
        find_node(tmp_path / "nowhere", None, custom_nodes)


def test_within_a_hook_of_another_repository(
    tmp_path: Path, custom_nodes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, folder = repository(tmp_path / "other", "other"), repository(tmp_path / "my_node", "mine")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    find_node(folder, "main", custom_nodes).put(tmp_path / "base" / "my_node")
    assert (tmp_path / "base" / "my_node" / "node.py").read_text() == "mine"


def test_other_requirements(tmp_path: Path, custom_nodes: Path) -> None:
    folder = repository(tmp_path / "my_node", "old")
    (folder / "requirements.txt").write_text("scipy\n")
    (folder / "pyproject.toml").write_text('[project]\nversion = "1"\ndependencies = ["scipy"]\n')
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "with requirements")
    (folder / "pyproject.toml").write_text('[project]\nversion = "2"\ndependencies = ["scipy"]\n')
    first, second, tree = (find_node(folder, ref, custom_nodes) for ref in ("main~1", "main", None))
    assert changed_requirements(first, second) == ("requirements.txt", "pyproject.toml")
    assert changed_requirements(second, tree) == ()
    (folder / "pyproject.toml").write_text("no TOML")
    assert changed_requirements(second, tree) == ("pyproject.toml",)


@pytest.mark.parametrize(
    ("text", "expected"), [("a@main", ("a", "main")), ("a", ("a", None)), ("a@b@v1", ("a@b", "v1"))]
)
def test_path_and_ref(text: str, expected: tuple[str, str | None]) -> None:
    assert parse_node(text) == (Path(expected[0]), expected[1])


def test_an_at_in_the_path(tmp_path: Path) -> None:
    (tmp_path / "node@home").mkdir()
    assert parse_node(f"{tmp_path}/node@home") == (tmp_path / "node@home", None)
    with pytest.raises(UsageError, match="no commit behind the @"):
        parse_node("node@")
