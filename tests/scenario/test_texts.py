from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.scenario.texts import DEFAULT_TEXTS, load_texts


def test_the_bundled_texts_are_five_different_ones() -> None:
    assert len(set(DEFAULT_TEXTS)) == 5
    assert load_texts(DEFAULT_TEXTS) == DEFAULT_TEXTS


def test_a_file_has_one_text_per_line(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("# animals\na cat\n\n   a dog  \n#a bird\nC# as a landscape\n", encoding="utf-8")
    assert load_texts("p.txt", root=tmp_path) == ("a cat", "a dog", "C# as a landscape")


def test_a_list_keeps_its_texts_as_they_are() -> None:
    assert load_texts(["# not a comment", " spaces "]) == ("# not a comment", " spaces ")


@pytest.mark.parametrize("source", [[], [""], ["  "], [5], ["a", None]])
def test_a_list_without_usable_texts_is_refused(source: list[Any]) -> None:
    with pytest.raises(UsageError, match=r"^prompts: "):
        load_texts(source)


def test_a_file_without_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("# nothing\n\n")
    with pytest.raises(UsageError, match=r"p\.txt has no line of text"):
        load_texts(tmp_path / "p.txt")


def test_a_text_in_place_of_a_file_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"given as a list: \['a red cat'\]"):
        load_texts("a red cat", root=tmp_path)
