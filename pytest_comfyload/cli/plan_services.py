"""The service times of `comfyload plan`, from stored runs or from a GPU file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_comfyload.cli.options import chosen, open_store, reading
from pytest_comfyload.errors import UsageError

if TYPE_CHECKING:
    from pytest_comfyload.capacity.gpus import GpuFile
    from pytest_comfyload.capacity.service_fit import GpuServices
    from pytest_comfyload.history.index import Row

__all__ = ["Mix", "gpu_file", "parse_mix", "services_of", "text_of_file"]

# Weights of workflows, or of workloads of the GPU file, by name.
Mix = Mapping[str, float]


def gpu_file(path: Path | None) -> GpuFile:
    """Read the GPU file of --gpus, or the shipped one. Raises: UsageError."""
    from pytest_comfyload.capacity.gpus import GpuFile, shipped_gpus

    return GpuFile.parse(shipped_gpus(), "gpus.toml") if path is None else GpuFile.parse(text_of_file(path), str(path))


def text_of_file(path: Path) -> str:
    """Read a user's file. Raises: UsageError."""
    from pytest_comfyload.errors import StoreError
    from pytest_comfyload.history.files import read_untrusted

    try:
        return read_untrusted(path, 1_000_000).decode()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except StoreError as error:
        raise UsageError(str(error)) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None


def parse_mix(text: str) -> dict[str, float]:
    """Parse `a=0.7,b=0.3`; a name alone has weight 1. Raises: UsageError."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.strip().rpartition("=") if "=" in part else (part.strip(), "", "1")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not (0 < weight < math.inf) or name in weights:
            raise UsageError(f"--mix {text!r}: {part.strip()!r} is not name=weight; write sdxl=0.7,flux=0.3")
        weights[name] = weight
    return weights


def services_of(
    refs: Sequence[str],
    scenario: str | None,
    gpu: str | None,
    mix: Mix | None,
    file: GpuFile,
    store: str | None,
    cold_start: str,
) -> tuple[list[GpuServices], Mix]:
    """Return the service times on the requested GPU and on its alternatives, and the mix.

    Args:
        refs: --from-run; stored runs, each on another GPU.
        scenario: --scenario, which selects among the runs.
        gpu: --gpu, instead of a run.
        mix: --mix, if given.
        file: The GPU file.
        store: --store.
        cold_start: --cold-start, a duration.

    Raises: UsageError.
    """
    from dataclasses import replace

    from pytest_comfyload.capacity.service_fit import of_figures
    from pytest_comfyload.metrics.units import parse_duration

    start = parse_duration(cold_start, "--cold-start")
    if refs and gpu is not None:
        raise UsageError("--gpu and --from-run contradict each other: a run has its GPU")
    if refs:
        found, mix = _of_runs(refs, scenario, mix, file, store)
    elif gpu is not None:
        found = [of_figures(gpu, mix, file)]
        found += [of_figures(other, mix, file) for other in file.known_for(mix) if other != gpu]
    else:
        known = ", ".join(file.known_for(mix))
        raise UsageError(f"give --from-run REF, such as latest; or --gpu, of which figures are known: {known}")
    return [replace(each, start=start) for each in found], mix or {"an image": 1.0}


def _of_runs(
    refs: Sequence[str], scenario: str | None, mix: Mix | None, file: GpuFile, where: str | None
) -> tuple[list[GpuServices], Mix]:
    """Raises: UsageError."""
    from pytest_comfyload.capacity.service_fit import of_run, shares_of
    from pytest_comfyload.history.git import Git
    from pytest_comfyload.history.refs import select

    store = open_store(where)

    def read() -> tuple[list[GpuServices], Mix]:
        rows = chosen(store, scenario, None, None)
        weights, found = mix, []
        for ref in refs:
            row = _newest(ref, select(ref, rows, Git(Path.cwd())))
            load = store.load(row).load()
            weights = weights or shares_of(load)
            found.append(of_run(load, weights, file, f"run {row.run_id}"))
        return found, weights or {}

    return reading(store, read)


def _newest(ref: str, found: Sequence[Row]) -> Row:
    """Return the newest of the runs that `ref` selects. Raises: UsageError if they are of several scenarios."""
    scenarios = sorted({row.series_title for row in found})
    if len(scenarios) > 1:
        listed = ", ".join(scenarios[:5]) + (", …" if len(scenarios) > 5 else "")
        raise UsageError(
            f"--from-run {ref}: {len(scenarios)} scenarios have such a run: {listed}; choose one with --scenario"
        )
    return found[0]
