"""The README's tables are what the registries declare."""

from __future__ import annotations

from tests.docs import README, rewritten


def test_the_tables_of_the_readme_are_those_of_the_registries() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == rewritten(text), "run: python -m tests.docs"
