"""A file named by a marker is looked for at collection, next to the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.plugin.marker import check_marks, load_scenario


def marked() -> object:
    # Defined here: collection would check a mark on a function of this module.
    @load_scenario("img2img", inputs={"LoadImage.image": Path("mine.png")})
    def test_it() -> None: ...

    return test_it


def test_a_file_beside_the_test_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(b"any")
    check_marks(marked(), tmp_path, ["test_it.py", "test_it"], set())


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        check_marks(marked(), tmp_path, ["test_it.py", "test_it"], set())
    assert str(caught.value).startswith("test_it.py::test_it: inputs: LoadImage.image: no file 'mine.png' in ")
    assert "\n" not in str(caught.value)
