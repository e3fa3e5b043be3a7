"""The tables of the README that hold what the registries declare: `python -m tests.docs` writes them anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.scenario.arguments import ARGUMENTS, legal_in_group

__all__ = ["README", "rewritten"]

README = Path(__file__).parents[1] / "README.md"


def arguments() -> str:
    """Every argument of `load_scenario`, with a mark on those that each of `groups` may have of its own."""
    own = legal_in_group()
    rows = (
        (f"`{each.name}`", _code(each.default), "yes" if each.name in own else "", each.help)
        for each in ARGUMENTS.values()
    )
    return _table(("Argument", "Default", "In groups", "Meaning"), rows)


def metrics() -> str:
    """Every metric of a load."""
    names = {spec: f'{spec.name}["KSampler"]' if spec.by_class else spec.name for spec in METRICS.values()}
    rows = (
        (f"`{name}`", spec.unit, " ".join(f"`.{stat}`" for stat in spec.stats), spec.help)
        for spec, name in names.items()
    )
    return _table(("Metric", "Unit", "Figures", "Meaning"), rows)


TABLES: Mapping[str, Callable[[], str]] = {"arguments": arguments, "metrics": metrics}


def rewritten(text: str) -> str:
    """The text with each table anew that stands between its two comments."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: written by python -m tests.docs -->\n", f"<!-- end of {name} -->\n"
        before, found, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not (found and ended):
            raise ValueError(f"README.md has no {begin.strip()} with its {end.strip()}")
        text = f"{before}{begin}\n{table()}\n{end}{after}"
    return text


def _code(default: object) -> str:
    return "" if default is None else f"`{default!r}`"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n" for cells in lines)


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text(encoding="utf-8")), encoding="utf-8", newline="")
