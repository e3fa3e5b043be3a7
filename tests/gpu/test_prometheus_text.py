"""The Prometheus text format is parsed as specified, and anything else is skipped."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.gpu.prometheus import Series, parse_metrics

NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]*", fullmatch=True)
LABEL_NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]*", fullmatch=True)
VALUES = st.floats() | st.integers(-(10**15), 10**15).map(float)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _written(series: Series, timestamp: int | None) -> str:
    labels = ",".join(f'{name}="{_escaped(text)}"' for name, text in series.labels.items())
    value = {math.inf: "+Inf", -math.inf: "-Inf"}.get(series.value, repr(series.value))
    return f"{series.name}{{{labels}}} {'NaN' if math.isnan(series.value) else value}" + (
        "" if timestamp is None else f" {timestamp}"
    )


@given(
    st.lists(
        st.tuples(
            st.builds(Series, NAMES, VALUES, st.dictionaries(LABEL_NAMES, st.text(), max_size=3)),
            st.none() | st.integers(-(10**12), 10**13),
        ),
        max_size=5,
    )
)
def test_what_is_written_is_read(written: list[tuple[Series, int | None]]) -> None:
    text = "# HELP a b\n# TYPE a gauge\n\n" + "\n".join(_written(series, at) for series, at in written) + "\n"
    read = list(parse_metrics(text))
    assert [(each.name, dict(each.labels)) for each in read] == [(each.name, each.labels) for each, _ in written]
    for got, (series, _) in zip(read, written, strict=True):
        assert got.value == series.value or (math.isnan(got.value) and math.isnan(series.value))


@given(st.text())
def test_anything_is_read_without_an_error(text: str) -> None:
    for series in parse_metrics(text):
        assert series.name


@pytest.mark.parametrize(
    ("line", "series"),
    [
        ("up 1", Series("up", 1.0)),
        ("  up\t1.5e3 1395066363000", Series("up", 1500.0)),
        ("up{} 1\r", Series("up", 1.0)),
        ('a{b="c",} 1', Series("a", 1.0, {"b": "c"})),
        ('a { b = "}\\"\\\\ \\n" , c="" } -2', Series("a", -2.0, {"b": '}"\\ \n', "c": ""})),
        ('a{b="c"} 0.5 # {trace="x"} 1', Series("a", 0.5, {"b": "c"})),
        ("a 1 1.5e9", None),
        ("# a 1", None),
        ('a{b="c" 1', None),
        ('a{b="c} 1', None),
        ("a{b=c} 1", None),
        ("a one", None),
        ("a", None),
        ("1a 1", None),
        ("<html>", None),
    ],
)
def test_a_line(line: str, series: Series | None) -> None:
    assert list(parse_metrics(line)) == ([] if series is None else [series])


def test_a_line_of_megabytes_is_passed_over() -> None:
    assert list(parse_metrics('a{b="' + "x" * 10_000_000 + "\na 1")) == [Series("a", 1.0)]
