"""Export to and import from pytest-benchmark's JSON, with one benchmark per time metric of a run, named `TEST::METRIC`.

The format supports only times, for which lower is better, and one commit per file.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from pytest_comfyload.errors import BadFile, UsageError
from pytest_comfyload.history.environment import fingerprint
from pytest_comfyload.history.exports import storable
from pytest_comfyload.history.files import shown
from pytest_comfyload.history.provenance import Machine, Provenance
from pytest_comfyload.history.record import Record
from pytest_comfyload.metrics.intervals import percentile_of
from pytest_comfyload.metrics.registry import METRICS
from pytest_comfyload.result.run_facts import RunFacts
from pytest_comfyload.result.validity import measurements

__all__ = ["as_benchmark", "from_benchmark", "is_benchmark"]


def as_benchmark(records: Sequence[Record]) -> str:
    """Return the runs as pytest-benchmark's JSON. Raises: UsageError unless all runs are of one commit."""
    commits = {record.provenance.commit for record in records}
    if len(commits) != 1:
        raise UsageError(
            f"a file of pytest-benchmark holds the runs of one commit, not of {len(commits)}; name it: a REF"
        )
    newest = max(records, key=lambda record: record.time)
    content = {
        "machine_info": _machine_info(newest.provenance.machine),
        "commit_info": _commit_info(newest.provenance),
        "benchmarks": [
            benchmark for record in records for metric in _exported() if (benchmark := _benchmark(record, metric))
        ],
        "datetime": _iso(newest.time),
        "version": "5.3.1",
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=1).decode() + "\n"


def _exported() -> list[str]:
    return [spec.name for spec in METRICS.values() if spec.mirrored]


def is_benchmark(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("benchmarks"), list)


def from_benchmark(content: Mapping[str, Any], source: str) -> list[Record]:
    """Return one run for each test in the file, which combines its `::METRIC` benchmarks. Raises: UsageError."""
    tests: dict[str, dict[str, Mapping[str, Any]]] = {}
    try:
        come = _provenance(content)
        time = datetime.fromisoformat(content["datetime"]).replace(tzinfo=UTC).timestamp()
        for benchmark in content["benchmarks"]:
            test, _, metric = benchmark["fullname"].rpartition("::")
            named = metric in METRICS and METRICS[metric].unit == "s"
            tests.setdefault(test if named else benchmark["fullname"], {})[metric if named else "total_time"] = (
                benchmark
            )
        return storable(_record(test, metrics, come, time) for test, metrics in tests.items())
    except (BadFile, KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UsageError(f"{source} is not JSON of pytest-benchmark: {shown(repr(error))}") from None


def _benchmark(record: Record, metric: str) -> dict[str, Any] | None:
    prompts = measurements(record.outcomes, allow_cached=record.facts.allow_cached)
    succeeded = [each for each in prompts if each.succeeded and not each.warmup]
    data = [value for each in succeeded if (value := getattr(each, metric)) is not None]
    if not data:
        return None
    test = f"{record.facts.title}[{record.facts.parameters}]" if record.facts.parameters else record.facts.title
    return {
        "group": None,
        "name": f"{test.rpartition('::')[2]}::{metric}",
        "fullname": f"{test}::{metric}",
        "params": None,
        "param": record.facts.parameters or None,
        "extra_info": {"run_id": record.run_id, "state": record.state, "workflow": record.facts.workflow},
        "options": {"timer": "comfyload"},
        "stats": _stats(data),
    }


def _stats(data: Sequence[float]) -> dict[str, Any]:
    """Return the statistics as pytest-benchmark computes them."""
    ordered, total, n = sorted(data), math.fsum(data), len(data)
    median = statistics.median(ordered)
    q1, q3 = _quartiles(ordered)
    low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    mean, spread = total / n, statistics.stdev(data) if n > 1 else 0.0
    far = sum(1 for value in data if not low <= value <= high)
    off = sum(1 for value in data if abs(value - mean) > spread)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": mean,
        "stddev": spread,
        "rounds": n,
        "median": median,
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": far,
        "stddev_outliers": off,
        "outliers": f"{off};{far}",
        "ld15iqr": next(value for value in ordered if value >= low),
        "hd15iqr": next(value for value in reversed(ordered) if value <= high),
        "ops": n / total if total else 0.0,
        "total": total,
        "data": list(data),
        "iterations": 1,
    }


def _quartiles(ordered: Sequence[float]) -> tuple[float, float]:
    """Return the medians of the lower and the upper half.

    For an odd number of values, each is the mean of the half's medians with and without the middle value.
    """
    n, half = len(ordered), len(ordered) // 2
    if not half:
        return ordered[0], ordered[0]
    first, third = (
        (statistics.median(without) + statistics.median(with_it)) / 2
        for without, with_it in ((ordered[:half], ordered[: n - half]), (ordered[n - half :], ordered[half:]))
    )
    return first, third


def _machine_info(machine: Machine | None) -> dict[str, Any]:
    if machine is None:
        return {}
    return {
        "node": machine.host,
        "system": machine.system,
        "python_version": machine.python,
        "cpu": {"brand_raw": machine.processor, "count": machine.cores},
    }


def _commit_info(come: Provenance) -> dict[str, Any]:
    date = None if come.date is None else _iso(come.date)
    return {
        "id": come.commit or "unknown",
        "time": date,
        "author_time": date,
        "dirty": bool(come.dirty),
        "project": (come.repository or "unknown").rpartition("/")[2],
        "branch": come.branch or "(unknown)",
    }


def _iso(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).replace(tzinfo=None).isoformat()


def _provenance(content: Mapping[str, Any]) -> Provenance:
    told = content.get("commit_info") or {}
    commit, date = told.get("id"), told.get("author_time") or told.get("time")
    branch = told.get("branch")
    return Provenance(
        commit=commit if commit and commit != "unknown" else None,
        branch=branch if branch and not branch.startswith("(") else None,
        dirty=told.get("dirty"),
        date=datetime.fromisoformat(date).timestamp() if date else None,
        notes=("imported from pytest-benchmark",),
    )


def _record(test: str, metrics: Mapping[str, Mapping[str, Any]], come: Provenance, time: float) -> Record:
    figures = {metric: _figures(benchmark["stats"]) for metric, benchmark in metrics.items()}
    n = max(figure["n"] for figure in figures.values())
    known = hashlib.sha256(msgspec.json.encode([test, time, come.commit])).hexdigest()[:8]
    run_id = f"{datetime.fromtimestamp(time, UTC):%Y%m%dT%H%M%S}-{known}"
    facts = RunFacts(
        run_id=run_id,
        title=test,
        scenario="pytest-benchmark",
        workflow="",
        servers=(),
        seed=0,
        epoch=time,
        window=(0.0, 0.0),
        time_scale=None,
        intended=n,
        submitted=n,
        loop_lag=0.0,
        max_send_lag=0.0,
    )
    environment = {"test": test, "load": "pytest-benchmark", "simulated": False}
    return Record(
        run_id=run_id,
        time=time,
        state="valid",
        fingerprint=fingerprint(environment),
        environment=environment,
        subject={},
        provenance=come,
        figures={"scenario": facts.scenario, "simulated": False, "state": "valid", "prompts": n, **figures},
        checks=(),
        facts=facts,
        outcomes=(),
    )


def _figures(stats: Mapping[str, Any]) -> dict[str, Any]:
    data = sorted(stats.get("data") or ())
    percentiles = {f"p{q}": percentile_of(data, q) for q in (90, 95, 99)} if data else {}
    return {
        "n": int(stats["rounds"]),
        "mean": float(stats["mean"]),
        "min": float(stats["min"]),
        "max": float(stats["max"]),
        "p50": float(stats["median"]),
        **percentiles,
    }
