"""Escapes are decoded, and each part of the decoded text is mapped to its place in the original."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.escapes import unescape
from tests.hostile.encoders import ENCODERS


@pytest.mark.parametrize(
    ("escaped", "plain"),
    [
        (b"a%2Fb%252fc", b"a/b/c"),
        (b"\\u00e9\\xe9\\ud83d\\ude00\\U0001f600", "é".encode() + b"\xe9" + "😀😀".encode()),
        (b'\\"\\\\\\/\\n\\q', b'"/\nq'),
        (b"&amp;amp;lt;&#039;&#X0027;&eacute;&nosuch;", "<''é&nosuch;".encode()),
        (b"""'"'"'x'\\''""", b"'x'"),
        (b"%5Cu0026 %zz & # \\", b"& %zz & # "),
        (b"&#1114112;&#xffffff;", b"&#1114112;&#xffffff;"),
    ],
)
def test_examples(escaped: bytes, plain: bytes) -> None:
    assert unescape(escaped).content == plain


@given(st.text("ab%2&#38;amp\\u0x'\"é 5", max_size=30), st.sampled_from(list(ENCODERS)))
def test_spans_cover_what_they_come_from(text: str, form: str) -> None:
    content = ENCODERS[form](text).encode()
    found = unescape(content)
    ends = [found.span(at, at + 1) for at in range(len(found.content))]
    assert all(0 <= begin < end <= len(content) for begin, end in ends)
    assert [begin for begin, _ in ends] == sorted(begin for begin, _ in ends)
    for (begin, end), byte in zip(ends, found.content, strict=True):
        assert end - begin > 1 or content[begin] == byte
