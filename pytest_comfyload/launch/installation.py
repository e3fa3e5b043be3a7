"""A user's ComfyUI installation, from which servers are started and into which nothing is written.

A server runs the installation's `main.py` in a base directory of its own: models and input files are links to the
user's, the code of custom nodes is copied (nodes write beside their code), and what it makes stays there.
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

# Makes the folder of a custom node.
PutNode = Callable[[Path], object]

# Where a Python is looked for, from the folder of main.py: virtual environments, and the one of the Windows package.
_PYTHONS = (
    ".venv/bin/python", "venv/bin/python", "../.venv/bin/python", "../venv/bin/python",
    "../python_embeded/python.exe",
)  # fmt: skip
# Files of custom nodes that are larger are weights, and linked.
_LARGEST_COPY = 1 << 20
# Nothing of it is executed, and it can be larger than all else.
_NOT_COPIED = {".git", ".github", "node_modules"}
# Of the input folder: what earlier loads uploaded, and new ones overwrite.
_UPLOADS = {"comfyload"}


def install_at(directory: Path, python: Path | None = None, args: Sequence[str] = ()) -> ComfyInstall:
    """Find the ComfyUI in `directory`.

    Args:
        directory: The folder of its main.py, or the one above.
        python: What runs it; default: the virtual environment in or beside that folder, else this Python.
        args: Further arguments of main.py.

    Raises:
        UsageError: There is no main.py, or no such Python.
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
    # Byte code that exists is used; more of it would be written into the installation.
    return ComfyInstall(found, main.absolute(), tuple(args), {"PYTHONDONTWRITEBYTECODE": "1"})


def with_code(install: ComfyInstall, put: PutNode, folder: Path) -> ComfyInstall:
    """Return the installation with another ComfyUI, which is put into the folder. Raises: UsageError."""
    put(folder)
    main = folder / "main.py"
    if not main.is_file():
        raise UsageError(f"no ComfyUI in this commit of {install.main.parent}: it has no main.py")
    # It lies beside main.py, and git does not know it.
    paths = install.main.with_name("extra_model_paths.yaml")
    given = ("--extra-model-paths-config", str(paths)) if paths.is_file() else ()
    return replace(install, main=main, args=(*given, *install.args))


def lay_out(base: Path, installation: Path, nodes: Mapping[str, PutNode]) -> None:
    """Fill the new base directory of a server from the folder of main.py.

    Args:
        nodes: Custom nodes by folder, which take the place of the user's of the same name.

    Raises:
        UsageError: A custom node could not be put there.
        OSError: There is no room.
    """
    for folder, skipped in (("models", set[str]()), ("input", _UPLOADS)):
        _mirror(installation / folder, base / folder, _link, skipped)
    _mirror(installation / "custom_nodes", base / "custom_nodes", _copy_code, {*_NOT_COPIED, *nodes})
    for name, put in nodes.items():
        put(base / "custom_nodes" / name)


def _mirror(source: Path, target: Path, put: Callable[[str, Path], object], skipped: Iterable[str]) -> None:
    """Make the folders below `source` anew, each once, and `put` every file; links to folders are followed."""
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
    """Return whether it is seen for the first time: a link may lead to a folder above it."""
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
    """Copy with the times, by which byte code is known to be current."""
    path = Path(source)
    if path.is_file() and path.stat().st_size <= _LARGEST_COPY:
        shutil.copy2(path, target)
    else:
        _link(source, target)
