"""What users see and files contain stays the same, byte for byte, whatever moves inside the package."""

from __future__ import annotations

import pytest

from tests.golden.artefacts import ARTEFACTS, DATA


@pytest.mark.parametrize("name", ARTEFACTS)
def test_unchanged(name: str) -> None:
    stored = (DATA / name).read_bytes().decode("utf-8")
    assert ARTEFACTS[name]() == stored, "if this change is meant to be seen: python -m tests.golden.artefacts"
