"""A metric is a plain number that knows its name, unit and sample count, and tells who watches when it is compared.

Arithmetic gives plain floats: a metric is what was measured, not what was made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from pytest_comfyload.errors import NoSamples

__all__ = ["Comparison", "Count", "Measure", "Metric", "watch_comparisons"]

# Called with (metric, operator as written, bound, result) right after a comparison.
Comparison = Callable[["Measure", str, object, bool], None]
_watcher: ContextVar[Comparison | None] = ContextVar("comparison_watcher", default=None)


@contextmanager
def watch_comparisons(watcher: Comparison) -> Iterator[None]:
    """While the context lasts, every comparison of a metric in this thread is told to `watcher`."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


class Measure:
    """What `Metric` and `Count` share. `n` is the number of samples behind the value."""

    name: str
    unit: str
    n: int


_M = TypeVar("_M", bound="Metric | Count")
_OPERATORS = {"__lt__": "<", "__le__": "<=", "__gt__": ">", "__ge__": ">=", "__eq__": "==", "__ne__": "!="}


def _compared(base: type[float]) -> Callable[[type[_M]], type[_M]]:
    """A class decorator: comparisons as `base` does them, told to the watcher; without samples they raise."""

    def decorate(cls: type[_M]) -> type[_M]:
        for dunder, symbol in _OPERATORS.items():
            setattr(cls, dunder, _comparison(getattr(base, dunder), symbol))
        # A class that defines __eq__ loses its hash.
        cls.__hash__ = base.__hash__  # type: ignore[method-assign]
        return cls

    return decorate


def _comparison(compare: Callable[[Any, object], Any], symbol: str) -> Callable[[Any, object], Any]:
    def method(self: Metric | Count, other: object) -> Any:
        if self.n == 0:
            raise NoSamples(f"{self.name} has no samples: nothing was measured that it could be made of")
        result = compare(self, other)
        watcher = _watcher.get()
        if watcher is not None and result is not NotImplemented:
            watcher(self, symbol, other, bool(result))
        return result

    return method


@_compared(float)
class Metric(float, Measure):
    """A measured float: seconds, percent, per minute."""

    def __new__(cls, value: float, name: str, unit: str, n: int) -> Metric:
        self = super().__new__(cls, value)
        self.name, self.unit, self.n = name, unit, n
        return self

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        # Outside this process it is a plain number.
        return float, (float(self),)


@_compared(int)
class Count(int, Measure):
    """A counted int: a fact, not an estimate."""

    def __new__(cls, value: int, name: str, n: int) -> Count:
        self = super().__new__(cls, value)
        self.name, self.unit, self.n = name, "", n
        return self

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)
