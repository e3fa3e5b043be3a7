"""Result of an A/B comparison by interleaved runs: the verdict on its gates, and the figures that explain it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_comfyload.errors import UsageError, nearest
from pytest_comfyload.metrics.comparable import ClassFigure, compared
from pytest_comfyload.metrics.paired import FEWEST_PAIRS, PairedRatio, abba
from pytest_comfyload.metrics.registry import GATE, METRICS, unit_of
from pytest_comfyload.metrics.regression import RegressionVerdict
from pytest_comfyload.result.ab_figure import ABFigure, PicturePair, picture_pairs, value_at
from pytest_comfyload.result.counts import combined, differing
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.text import harmless_line

__all__ = ["ABResult"]

# Percentage of failed prompts above which the times of the others are not representative.
MOST_FAILED = 5.0
# Node classes that take a smaller share (0–1) of the generation time are not reported.
LEAST_SHARE = 0.05


@dataclass(frozen=True)
class ABResult:
    """The result of comparing B with A by interleaved runs. The ratio of a time is that of the runs' medians.

    `A` and `B` are the runs of each side, pair by pair. `gates` are the figures that decide; the worst of their
    verdicts counts. `invalid_because` says why one of the runs is not a measurement, None if all are. `labels` describe
    the servers of A and of B, None if both use the same. `notes` are further facts that a reader needs.
    """

    title: str
    A: tuple[LoadResult, ...]
    B: tuple[LoadResult, ...]
    gates: tuple[str, ...] = (GATE,)
    invalid_because: str | None = None
    labels: tuple[str, str] | None = None
    notes: tuple[str, ...] = ()

    # --- figures ---

    @property
    def generation_time(self) -> ABFigure:
        """Median generation time of each run in seconds, and the ratio B ÷ A."""
        return self.figure("generation_time.p50")

    @property
    def total_time(self) -> ABFigure:
        """Median total time of each run in seconds, and the ratio B ÷ A."""
        return self.figure("total_time.p50")

    @property
    def throughput(self) -> ABFigure:
        """Outputs per minute of each run (images per minute if all outputs are images), and the ratio B ÷ A."""
        return self.figure("throughput")

    @property
    def node_time(self) -> Mapping[str, ABFigure]:
        """Median seconds per executed node, by class, for every class that ran in A or in B, and the ratios B ÷ A."""
        classes = dict.fromkeys(name for figures in (*self._figures[0], *self._figures[1]) for name in _nodes(figures))
        return _ByClass({name: self.figure(ClassFigure("node_time", name, "p50").title) for name in classes})

    def figure(self, name: str) -> ABFigure:
        """Return any figure of `LoadResult.to_dict` in its unit: `total_time.p95`, `node_time[KSampler].p50`."""
        a, b = (tuple(value_at(figures, name) for figures in side) for side in self._figures)
        return ABFigure(_shown(name), self._unit(name), a, b)

    def _unit(self, name: str) -> str:
        if name == "throughput":
            counted = {load.delivers for load in (*self.A, *self.B)}
            return "outputs/min" if "outputs" in counted else "images/min"
        figure = ClassFigure.read(name)
        return unit_of(name) if figure is None else METRICS[figure.kind].unit

    # --- verdict ---

    @property
    def gate(self) -> str:
        """Name of the first of the `gates`."""
        return self.gates[0]

    @property
    def pairs(self) -> int:
        """Number of complete pairs."""
        return min(len(self.A), len(self.B))

    @property
    def simulated(self) -> bool:
        """Whether a simulated server executed any of the runs."""
        return any(load.simulated for load in (*self.A, *self.B))

    @property
    def verdict(self) -> RegressionVerdict:
        """Regressed if any gate is, else inconclusive if any gate is, else the verdict of the first gate.

        Also inconclusive if there is no verdict; `withheld` says why.
        """
        if self.withheld:
            return RegressionVerdict.INCONCLUSIVE
        verdicts = [self._judged(gate).verdict for gate in self.gates]
        worst = (RegressionVerdict.REGRESSED, RegressionVerdict.INCONCLUSIVE)
        return next((each for each in worst if each in verdicts), verdicts[0])

    def sentence(self) -> str:
        """Return the result as text, one sentence per gate."""
        return " ".join(self.sentences())

    def sentences(self) -> list[str]:
        """Return one sentence per gate, or only the reason why there is no verdict."""
        return [self.withheld] if self.withheld else list(map(self._sentence, self.gates))

    def _sentence(self, gate: str) -> str:
        found = self._judged(gate)
        ratio = f"{gate} ×{found.value:.3g} ({found.lower:.3g}–{found.upper:.3g}, {found.pairs} pairs)"
        match found.verdict:
            case RegressionVerdict.REGRESSED:
                return f"B is worse: {ratio}; limit 5 %."
            case RegressionVerdict.IMPROVED:
                return f"B is better: {ratio}; limit 5 %."
            case RegressionVerdict.UNCHANGED:
                return f"No difference between A and B: {ratio}; a change of 5 % would have been seen."
        if found.pairs < FEWEST_PAIRS:
            return f"{ratio}; {found.pairs} pairs are too few for a verdict, which needs {FEWEST_PAIRS}."
        return f"{ratio}; limit 5 %: more pairs are needed for a verdict."

    @functools.cached_property
    def pictures(self) -> tuple[PicturePair, ...]:
        """Successful prompts of both sides with the same seeds, paired to compare their pictures."""
        return tuple(picture_pairs(self.A, self.B))

    def told(self) -> list[ABFigure]:
        """Return the figures that have a ratio: the gates first, node classes with at least 5 % of the time last."""
        least = LEAST_SHARE * min([*self.generation_time.A, *self.generation_time.B])
        classes = [figure for figure in self.node_time.values() if max([*figure.A, *figure.B]) >= least]
        names = dict.fromkeys([*self.gates, "generation_time.p50", "total_time.p50", "throughput", *self._memory])
        figures = {figure.name: figure for figure in (*map(self.figure, names), *classes)}
        return [figure for figure in figures.values() if figure.has_ratio]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as built-in types, for JSON."""
        return {
            "title": self.title,
            "verdict": str(self.verdict),
            "sentence": self.sentence(),
            "gate": self.gate,
            "gates": {gate: str(self._judged(gate).verdict) for gate in self.gates} if not self.withheld else {},
            "pairs": self.pairs,
            "simulated": self.simulated,
            "labels": list(self.labels) if self.labels else None,
            "notes": list(self.notes),
            "invalid_because": self.invalid_because,
            "figures": {_key(figure.name): _plain(figure) for figure in self.told()},
            "runs": {"A": [load.facts.run_id for load in self.A], "B": [load.facts.run_id for load in self.B]},
            "pictures": [_pictures(pair) for pair in self.pictures],
        }

    @functools.cached_property
    def _figures(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        return [load.to_dict() for load in self.A], [load.to_dict() for load in self.B]

    @property
    def _memory(self) -> list[str]:
        """Name of the figure for peak GPU memory, if any; a CPU server reports the RAM of its machine instead."""
        if any(
            device.type == "cpu" for load in self.A for server in load.facts.server_facts for device in server.devices
        ):
            return []
        told = [name for name in ("gpu.memory_used.peak", "server.vram_used.max") if self.figure(name).has_ratio]
        return told[:1]

    def _judged(self, gate: str) -> PairedRatio:
        return self.figure(gate).paired(higher_is_better=compared(gate).scale.higher_is_better)

    @functools.cached_property
    def other_work(self) -> tuple[str, ...]:
        """Node classes that did not run equally often in A and B, or in the first and the second run of the pairs.

        Workflows that differ are compared by what they have in common; with allow_cached=True, nothing is compared.
        """
        if any(load.facts.allow_cached for load in (*self.A, *self.B)):
            return ()
        pairs = list(zip(self.A, self.B, strict=False))
        turns = [pair if first == "A" else pair[::-1] for pair, first in zip(pairs, abba(len(pairs))[::2], strict=True)]
        return (
            *_other_work(pairs, ("in A", "in B")),
            *_other_work(turns, ("in the first run of each pair", "in the second")),
        )

    @functools.cached_property
    def withheld(self) -> str | None:
        """Why there is no verdict; None if there is one."""
        if self.invalid_because is not None:
            return f"Not judged: {self.invalid_because}."
        for side, loads in (("A", self.A), ("B", self.B)):
            if (failed := _failed(loads)) > MOST_FAILED:
                return f"Not compared: {failed:.0f} % of {side}'s prompts failed; the others are not representative."
        if self.other_work:
            return f"Not compared: A and B did not do the same work: {'; '.join(self.other_work)}."
        without = [gate for gate in self.gates if not self.figure(gate).has_ratio]
        return f"Not compared: a run has no {without[0]} of which a ratio can be made." if without else None

    def __repr__(self) -> str:
        return harmless_line(f"<ABResult {self.title}: {self.verdict}, {self.pairs} pairs>")


class _ByClass(dict[str, ABFigure]):
    def __missing__(self, class_type: str) -> ABFigure:
        seen = nearest(str(class_type), sorted(self)) or "none"
        raise UsageError(f"node_time[{class_type!r}]: no node of that class ran; classes that ran: {seen}")


def _nodes(figures: Mapping[str, Any]) -> Mapping[str, Any]:
    return figures.get("node_time") or {}


def _other_work(pairs: Sequence[tuple[LoadResult, LoadResult]], names: tuple[str, str]) -> tuple[str, ...]:
    first, second = (combined(pair[place].executions for pair in pairs) for place in (0, 1))
    return differing(first, second, names)


def _shown(name: str) -> str:
    """Return the name to display: without `.p50`, since a name without a statistic means the median."""
    name = name.removesuffix(".p50")
    figure = ClassFigure.read(name)
    return name if figure is None else figure.title


def _key(name: str) -> str:
    """Return the name of a figure in JSON."""
    figure = ClassFigure.read(name)
    return name if figure is None else f'{figure.kind}["{figure.class_type}"]'


def _failed(loads: Sequence[LoadResult]) -> float:
    """Return the percentage of prompts that failed; 100 if there are none."""
    prompts = [outcome for load in loads for outcome in load.outcomes]
    return 100 * sum(1 for outcome in prompts if not outcome.succeeded) / len(prompts) if prompts else 100.0


def _plain(figure: ABFigure) -> dict[str, Any]:
    found = figure.paired()
    a, b = (math.exp(math.fsum(map(math.log, side)) / len(side)) for side in (figure.A, figure.B))
    return {"A": a, "B": b, "unit": figure.unit, "ratio": found.value, "lower": found.lower, "upper": found.upper}


def _pictures(pair: PicturePair) -> dict[str, Any]:
    a, b = pair.urls()
    return {"pair": pair.pair, "seeds": list(pair.seeds), "A": a, "B": b, "identical": pair.identical}
