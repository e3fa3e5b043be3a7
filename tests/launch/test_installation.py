"""What a server gets from the user's installation: links to large files, copies of code, nothing to modify."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.launch.installation import install_at, lay_out
from tests.launch.fake_installation import installation


def checksum(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        found.update(f"{path} {about.st_mode} {about.st_mtime_ns}".encode())
        if path.is_file() and not path.is_symlink():
            found.update(path.read_bytes())
    return found.hexdigest()


def test_what_a_base_directory_has(tmp_path: Path) -> None:
    user, base = installation(tmp_path / "ComfyUI"), tmp_path / "base"
    lay_out(base, user, {"my_node": lambda folder: folder.mkdir()})
    files = {str(path.relative_to(base)): path.is_symlink() for path in base.rglob("*") if not path.is_dir()}
    assert files == {
        "models/checkpoints/deep/sd.safetensors": True,
        "input/example.png": True,
        "custom_nodes/other_pack/__init__.py": False,
    }
    assert (base / "models/checkpoints/deep/sd.safetensors").read_text() == "weights"
    assert list((base / "custom_nodes" / "my_node").iterdir()) == []


def test_what_is_written_beside_models_and_code_stays_outside(tmp_path: Path) -> None:
    user, base = installation(tmp_path / "ComfyUI"), tmp_path / "base"
    before = checksum(user)
    lay_out(base, user, {})
    (base / "models" / "checkpoints" / "downloaded.safetensors").write_text("new")
    (base / "custom_nodes" / "other_pack" / "__init__.py").write_text("configuration")
    (base / "input" / "comfyload").mkdir()
    (base / "input" / "comfyload" / "earlier.png").write_text("overwritten")
    shutil.rmtree(base)
    assert checksum(user) == before


def test_weights_of_a_custom_node_are_linked(tmp_path: Path) -> None:
    user = installation(tmp_path / "ComfyUI")
    (user / "custom_nodes" / "other_pack" / "weights.bin").write_bytes(bytes(2 << 20))
    lay_out(tmp_path / "base", user, {})
    assert (tmp_path / "base" / "custom_nodes" / "other_pack" / "weights.bin").is_symlink()


def test_links_that_lead_in_circles_or_nowhere(tmp_path: Path) -> None:
    user = installation(tmp_path / "ComfyUI")
    (user / "models" / "again").symlink_to(user / "models")
    (user / "models" / "checkpoints" / "up").symlink_to(user / "models" / "checkpoints")
    (user / "models" / "gone.safetensors").symlink_to(user / "nowhere")
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "lora.safetensors").write_text("weights")
    (user / "models" / "loras").symlink_to(shared)
    lay_out(tmp_path / "base", user, {})
    found = {str(path.relative_to(tmp_path / "base" / "models")) for path in (tmp_path / "base").rglob("*.safetensors")}
    assert "loras/lora.safetensors" in found
    assert "gone.safetensors" not in found
    assert sum(name.endswith("sd.safetensors") for name in found) == 1


def test_the_python_is_that_of_the_installation(tmp_path: Path) -> None:
    user = installation(tmp_path / "ComfyUI")
    assert install_at(user).python == Path(sys.executable)
    beside = tmp_path / "venv" / "bin" / "python"
    beside.parent.mkdir(parents=True)
    beside.touch()
    assert install_at(user).python.resolve() == beside
    within = user / ".venv" / "bin" / "python"
    within.parent.mkdir(parents=True)
    within.touch()
    assert install_at(user).python == within
    found = install_at(tmp_path, Path(sys.executable), ["--cpu"])
    assert (found.python, found.main, found.args) == (Path(sys.executable), user / "main.py", ("--cpu",))


def test_what_is_no_installation(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no ComfyUI in .*: it has no main\.py"):
        install_at(tmp_path)
    with pytest.raises(UsageError, match="is not a Python that can be run"):
        install_at(installation(tmp_path), tmp_path / "python")
