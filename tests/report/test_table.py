"""Tables and lines of any width: names break between their words, figures never, and nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from pytest_comfyload.report.table import Column, rendered, table_lines, wrapped


def _wrapped(line: str, width: int, **how: int) -> list[str]:
    return [part.plain for part in wrapped(Text(line), width, **how)]


def test_a_line_breaks_between_words_and_keeps_a_figure_with_its_unit() -> None:
    assert _wrapped("  note: generation takes 1.25 s of 12 images/min here", 26) == [
        "  note: generation takes",
        "    1.25 s of",
        "    12 images/min here",
    ]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("test_the_last_of_fifteen_is_served", ["test_the_last_of_", "fifteen_is_served"]),
        ("tests/test_it.py::TestIt::test_it[a-5]", ["tests/test_it.py::", "TestIt::test_it[a-", "5]"]),
        ("CheckpointLoaderSimpleWithName", ["CheckpointLoader", "SimpleWithName"]),
        ("x" * 20, ["x" * 18, "xx"]),
        ("x" + "日" * 10, ["x" + "日" * 8, "日日"]),
        ("note: /tmp/a_long_path/of_a_folder is", ["note: /tmp/a_long_", "path/of_a_folder", "is"]),
        ("a short_word and", ["a short_word and"]),
        ("some words short_word", ["some words", "short_word"]),
    ],
)
def test_a_name_breaks_between_its_own_words(name: str, parts: list[str]) -> None:
    assert _wrapped(name, 18, hang=0) == parts


@given(st.text("ab _:/[]日", max_size=60), st.integers(8, 40))
def test_no_line_is_too_wide_and_no_character_is_lost(line: str, width: int) -> None:
    parts = wrapped(Text(line), width, hang=0)
    if not line.startswith(" "):
        assert all(part.cell_len <= width for part in parts)
    assert "".join(part.plain for part in parts).replace(" ", "") == line.replace(" ", "")


def test_the_name_gives_way_to_the_figures() -> None:
    columns = [Column("n", right=True), Column("test", gives_way=True)]
    rows = [[Text("12"), Text("test_a_long_name_of_a_test")], [Text("a heading over all columns")]]
    assert [line.plain for line in table_lines(columns, rows, 20)] == [
        " n  test",
        "12  test_a_long_",
        "    name_of_a_test",
        "a heading over all",
        "  columns",
    ]
    assert [line.plain for line in table_lines(columns, rows, 80)][1] == "12  test_a_long_name_of_a_test"


def test_figures_are_wider_than_the_screen_rather_than_cut() -> None:
    columns = [Column("measured", right=True), Column("test", gives_way=True)]
    lines = table_lines(columns, [[Text("1234 images/min"), Text("test_name")]], 10)
    assert lines[1].plain == "1234 images/min  test_name"


def test_lines_are_harmless_and_coloured_where_that_is_asked_for() -> None:
    lines: list[Text | str] = [Text("pass", style="green"), "::error::x\x1b[31m"]
    assert rendered(lines, color=False, width=80) == ["pass", ":​:error::x [31m"]
    assert rendered(lines, color=True, width=80)[0] == "\x1b[32mpass\x1b[0m"
