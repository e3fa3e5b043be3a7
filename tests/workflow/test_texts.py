from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.workflow.texts import DEFAULT_TEXTS, PromptText, load_texts


def texts(prompts: tuple[PromptText, ...]) -> tuple[str, ...]:
    return tuple(prompt.text for prompt in prompts)


def test_the_bundled_texts_are_five_different_ones() -> None:
    assert len(set(DEFAULT_TEXTS)) == 5
    assert texts(load_texts(DEFAULT_TEXTS)) == DEFAULT_TEXTS


def test_a_file_has_one_text_per_line(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("# animals\na cat\n\n   a dog  \n#a bird\nC# as a landscape\n", encoding="utf-8")
    assert texts(load_texts("p.txt", root=tmp_path)) == ("a cat", "a dog", "C# as a landscape")


def test_a_list_keeps_its_texts_as_they_are() -> None:
    assert texts(load_texts(["# not a comment", " spaces "])) == ("# not a comment", " spaces ")


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


def test_a_csv_gives_its_prompt_column(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('id,Prompt\n1,"a cat, sitting"\n\n2,"a\ndog"\n', encoding="utf-8")
    assert texts(load_texts("p.csv", root=tmp_path)) == ("a cat, sitting", "a\ndog")


def test_a_csv_without_such_a_column_gives_its_first(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("a cat,1\na dog,2\n")
    assert texts(load_texts("p.csv", root=tmp_path)) == ("a cat", "a dog")


def test_jsonl_brings_inputs_along(tmp_path: Path) -> None:
    lines = '{"prompt": "a cat", "KSampler.steps": 4}\n\n{"prompt": "ein\u2028Hund"}\n'
    (tmp_path / "p.jsonl").write_text(lines, encoding="utf-8")
    cat, dog = load_texts("p.jsonl", root=tmp_path)
    assert (cat.text, cat.inputs) == ("a cat", {"KSampler.steps": 4})
    assert (dog.text, dog.inputs) == ("ein\u2028Hund", {})


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.csv", "prompt,x\na cat,1\n,2\n", "p.csv, line 3: no text in column 1; the row is ',2'"),
        ("p.csv", "x,prompt\n1\n", "p.csv, line 2: no text in column 2"),
        ("p.csv", 'prompt\n"a cat\n', "p.csv, line 2: unexpected end of data"),
        ("p.csv", "prompt\n", "p.csv has no line of text"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": }', "p.jsonl, line 2: not JSON: Expecting value"),
        ("p.jsonl", "[1]", "p.jsonl, line 1: not an object such as"),
        ("p.jsonl", '{"text": "a"}', "p.jsonl, line 1: None under 'prompt' is not a text; keys: text"),
        ("p.jsonl", '{"prompt": 4}', "4 under 'prompt' is not a text; keys: none"),
        (
            "p.jsonl",
            '{"prompt": "a", "steps": 4}',
            "p.jsonl, line 1: the key 'steps' is not an input; write NODE.INPUT",
        ),
        ("p.jsonl", "[" * 100_000, "p.jsonl, line 1: not JSON"),
        ("p.jsonl", "\n", "p.jsonl has no line of text"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(name: str, content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError) as refusal:
        load_texts(name, root=tmp_path)
    assert says in str(refusal.value)
    assert str(refusal.value).startswith("prompts: ")
