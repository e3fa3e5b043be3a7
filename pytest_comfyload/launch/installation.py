"""A user's ComfyUI installation, from which servers are started and into which nothing is written.

Each server runs the installation's `main.py` with its own base directory: models and input files are symbolic links to
the user's files, the code of custom nodes is copied (nodes write next to their code), and whatever the server writes
stays in that directory.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_comfyload.errors import UsageError
from pytest_comfyload.launch.process import ComfyInstall

__all__ = ["PutNode", "install_at", "lay_out", "with_code"]

# Creates the folder of a custom node, or of a ComfyUI.
PutNode = Callable[[Path], object]

# Where a Python is looked for, relative to the folder of main.py: virtual environments, and the Windows package.
_PYTHONS = (
    ".venv/bin/python", "venv/bin/python", "../.venv/bin/python", "../venv/bin/python",
    "../python_embeded/python.exe",
)  # fmt: skip
# Bytes. Larger files of custom nodes are assumed to be weights, and are linked instead of copied.
_LARGEST_COPY = 1 << 20
# Not executed, and possibly larger than everything else.
_NOT_COPIED = {".git", ".github", "node_modules"}
# Subfolder of the input folder with the uploads of earlier loads, which new loads would overwrite.
_UPLOADS = {"comfyload"}


def install_at(directory: Path, python: Path | None = None, args: Sequence[str] = ()) -> ComfyInstall:
    """Find the ComfyUI in `directory`.

    Args:
        directory: The folder of its main.py, or the parent folder.
        python: The Python to run it; default: the virtual environment in or next to that folder, else this Python.
        args: Additional arguments of main.py.

    Raises:
        UsageError: There is no main.py, or `python` is not executable.
    """
    mains = [folder / "main.py" for folder in (directory, directory / "ComfyUI")]
    main = next((path for path in mains if path.is_file()), None)
    if main is None:
        raise UsageError(f"no ComfyUI in {directory}: it has no main.py; give the folder that has one")
    if python is not None and not os.access(python, os.X_OK):
        raise UsageError(f"{python} is not a Python that can be run; give the one of ComfyUI's virtual environment")
    found = python or next(
        (path for path in (main.parent / each for each in _PYTHONS) if path.is_file()), Path(sys.executable)
    )
    # Existing bytecode is used, but none is written into the installation.
    return ComfyInstall(found, main.absolute(), tuple(args), {"PYTHONDONTWRITEBYTECODE": "1"})


def with_code(install: ComfyInstall, put: PutNode, folder: Path) -> ComfyInstall:
    """Return the installation with the code of another ComfyUI, which `put` creates in `folder`. Raises: UsageError."""
    put(folder)
    main = folder / "main.py"
    if not main.is_file():
        raise UsageError(f"no ComfyUI in this commit of {install.main.parent}: it has no main.py")
    # This file is next to main.py and not under version control, so the other ComfyUI does not have it.
    paths = install.main.with_name("extra_model_paths.yaml")
    given = ("--extra-model-paths-config", str(paths)) if paths.is_file() else ()
    return replace(install, main=main, args=(*given, *install.args))


def lay_out(base: Path, installation: Path, nodes: Mapping[str, PutNode]) -> None:
    """Fill a server's new base directory from the installation, the folder of main.py.

    Args:
        nodes: Custom nodes by folder name; they replace the user's nodes of the same name.

    Raises:
        UsageError: A custom node could not be created.
        OSError: The base directory cannot be written, for example because the disk is full.
    """
    for folder, skipped in (("models", set[str]()), ("input", _UPLOADS)):
        _mirror(installation / folder, base / folder, _link, skipped)
    _mirror(installation / "custom_nodes", base / "custom_nodes", _copy_code, {*_NOT_COPIED, *nodes})
    for name, put in nodes.items():
        put(base / "custom_nodes" / name)


def _mirror(source: Path, target: Path, put: Callable[[str, Path], object], skipped: Iterable[str]) -> None:
    """Recreate the folders below `source`, each once, and `put` every file; links to folders are followed."""
    target.mkdir(parents=True, exist_ok=True)
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(source, followlinks=True):
        here = target / os.path.relpath(folder, source)
        here.mkdir(exist_ok=True)
        folders[:] = [name for name in folders if name not in skipped and _is_new(Path(folder, name), seen)]
        for name in files:
            if name not in skipped and Path(folder, name).exists():
                put(str(Path(folder, name)), here / name)


def _is_new(folder: Path, seen: set[tuple[int, int]]) -> bool:
    """Return whether a folder is seen for the first time: a link may point to one of its own parent folders."""
    try:
        about = folder.stat()
    except OSError:
        return False
    place = about.st_dev, about.st_ino
    known = place in seen
    seen.add(place)
    return not known


def _link(source: str, target: Path) -> None:
    target.symlink_to(Path(source).absolute())


def _copy_code(source: str, target: Path) -> None:
    """Copy a file with its timestamps, which keep its bytecode valid; link it if it is large."""
    path = Path(source)
    if path.is_file() and path.stat().st_size <= _LARGEST_COPY:
        shutil.copy2(path, target)
    else:
        _link(source, target)
