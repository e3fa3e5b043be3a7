"""Environment and subject of a run: what must be equal for two runs to be comparable, and what users compare."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pytest_comfyload.history.provenance import Machine
from pytest_comfyload.result.run_facts import UNKNOWN, Device, GpuFacts, RunFacts, ServerFacts, custom_node

__all__ = [
    "computing_device",
    "differences",
    "environment_of",
    "fingerprint",
    "hardware_of",
    "inputs_of",
    "moved_nodes",
    "subject_of",
]

_GIB = 1024**3
# `cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync`
_PLACE = re.compile(r"^\w+:\d+ ")
_ALLOCATOR = re.compile(r" : \w+$")
_BRANCH = re.compile(r"\d+")
_HERE = ("127.0.0.1", "::1", "localhost")
# Part of the environment, but runs are compared across it: a nightly run is meant to reveal the effect of a new driver.
_COMPARED = "driver"
# Part of the environment, but not of the hardware.
_OF_THE_TEST = ("test", "parameters", "load")


def environment_of(facts: RunFacts, machine: Machine | None) -> dict[str, Any]:
    """Return the environment, in the order in which differences are reported.

    `machine` is the machine that generated the load.
    """
    return {
        "test": facts.title,
        "parameters": facts.parameters,
        "load": facts.load,
        "simulated": facts.simulated,
        "servers": len(facts.server_facts) or len(facts.servers),
        **_devices(facts.server_facts, machine),
        **_driver(facts.gpu_facts),
    }


def fingerprint(environment: Mapping[str, Any]) -> str:
    """Return eight hex digits that are equal for comparable environments, regardless of the order of their keys."""
    return _digest({name: value for name, value in environment.items() if name != _COMPARED})


def hardware_of(environment: Mapping[str, Any]) -> str:
    """Return a fingerprint of the hardware alone, which is shared by all tests on the same machines."""
    return fingerprint({name: value for name, value in environment.items() if name not in _OF_THE_TEST})


def inputs_of(subject: Mapping[str, Any]) -> dict[str, Any]:
    """Return the workflow's inputs and models from a subject, without the versions and flags of servers."""
    return {name: value for name, value in subject.items() if not _is_of_the_server(name)}


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(values, order="deterministic")).hexdigest()[:8]


def subject_of(facts: RunFacts) -> dict[str, Any]:
    """Return the workflow's inputs, the servers' software versions and flags, and their GPUs' driver and power limit.

    A value is a list where servers differ.
    """
    told = facts.server_facts
    programs = {
        "ComfyUI": _one_or_all([server.comfyui for server in told]),
        "torch": _one_or_all([server.torch for server in told]),
        "Python": _one_or_all([server.python for server in told]),
        "flags": _one_or_all([" ".join(_of_performance(server.flags)) for server in told]),
        "driver": _one_or_all([gpu.driver for gpu in facts.gpu_facts if gpu.driver]),
        "power limit": _one_or_all([f"{gpu.power_limit:.0f} W" for gpu in facts.gpu_facts if gpu.power_limit]),
    }
    known = {name: value for name, value in programs.items() if value is not None}
    return {**facts.subject, **known, **_custom_nodes(told)}


_OF_THE_SERVER = frozenset({"ComfyUI", "torch", "Python", "flags", "driver", "power limit"})


def _is_of_the_server(name: str) -> bool:
    return name in _OF_THE_SERVER or name.startswith(custom_node(""))


def _custom_nodes(servers: Sequence[ServerFacts]) -> dict[str, Any]:
    """Return all installed packs: a pack can change ComfyUI even if the workflow uses none of its nodes."""
    packs = sorted({name for server in servers for name in server.custom_nodes})
    return {
        custom_node(name): _one_or_all([server.custom_nodes.get(name, "none") or UNKNOWN for server in servers])
        for name in packs
    }


def _devices(servers: Sequence[ServerFacts], machine: Machine | None) -> dict[str, Any]:
    devices = [device for server in servers for device in server.devices]
    cards = [device for device in devices if device.type != "cpu"]
    if cards:
        return {
            "gpu": _counted([_model(card) for card in cards]),
            "gpus": len(cards),
            "vram": _counted([_size(card.memory) for card in cards]),
        }
    if not devices:
        return {}
    return {"gpu": "none", "memory": _counted([_size(device.memory) for device in devices]), **_cores(servers, machine)}


def _driver(gpus: Sequence[GpuFacts]) -> dict[str, str]:
    """Return NVIDIA's driver branch, `550` for 550.54.15; empty if the driver is unknown or not a version number."""
    branches = sorted({branch[0] for gpu in gpus if (branch := _BRANCH.match(gpu.driver or ""))}, key=int)
    return {"driver": ", ".join(branches)} if branches else {}


def _cores(servers: Sequence[ServerFacts], machine: Machine | None) -> dict[str, Any]:
    """Return the processor of servers without a GPU, which do not report it; empty unless all run on this machine."""
    if machine is None or not all(urlsplit(server.url).hostname in _HERE for server in servers):
        return {}
    return {"processor": machine.processor, "cores": machine.cores}


def computing_device(environment: Mapping[str, Any], cpu: str = "CPU") -> str:
    """Return the device that a run's servers compute on by its common short name, `RTX 4090`; empty if unknown.

    For servers without a GPU it is their processor, or `cpu` if the processor's name is unknown.
    """
    name = str(environment.get("gpu") or "")
    if name == "none":
        name = str(environment.get("processor") or cpu)
    return name.removeprefix("NVIDIA ").removeprefix("GeForce ")


def _model(card: Device) -> str:
    return _ALLOCATOR.sub("", _PLACE.sub("", card.name))


def _size(memory: float | None) -> str:
    """Return a memory size in whole GiB, since the exact size depends on the driver."""
    return "unknown" if memory is None else f"{memory / _GIB:.0f} GiB"


def _counted(words: Sequence[str]) -> str:
    """Return the words with their counts: `H100` if all are equal, else `2 × H100, L4`."""
    counts = Counter(words)
    if len(counts) == 1:
        return words[0]
    return ", ".join(f"{count} × {word}" if count > 1 else word for word, count in sorted(counts.items()))


# Flags that determine where a server runs or logs, but not how fast it is. Their values are dropped too.
_OF_THE_PLACE = frozenset({
    "--port", "--listen", "--base-directory", "--output-directory", "--temp-directory", "--input-directory",
    "--user-directory", "--front-end-root", "--front-end-version", "--database-url", "--tls-keyfile", "--tls-certfile",
    "--extra-model-paths-config", "--log-stdout", "--verbose", "--auto-launch", "--disable-auto-launch",
})  # fmt: skip


def _of_performance(flags: Sequence[str]) -> list[str]:
    kept: list[str] = []
    skipping = False
    for flag in flags:
        if flag.startswith("-"):
            skipping = flag.partition("=")[0] in _OF_THE_PLACE
        if not skipping:
            kept.append(flag)
    return kept


def _one_or_all(words: Sequence[str]) -> str | list[str] | None:
    different = sorted(set(words))
    if len(different) > 1:
        return different
    return different[0] if different else None


_ABSENT = "none"
# Smallest share of all moves for a node class to be reported.
_LEAST_SHARE = 0.1
# Largest deviation of the sum of all moves from the change that they explain, as a share of that change.
_TOLERANCE = 0.5


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the differences, such as `KSampler.steps 2 → 6`, in the order of the later run."""
    names = dict.fromkeys([*after, *before])
    return tuple(
        f"{name} {_shown(before.get(name))} → {_shown(after.get(name))}"
        for name in names
        if before.get(name) != after.get(name)
    )


def moved_nodes(
    before: Mapping[str, float], after: Mapping[str, float], change: float, most: int = 3
) -> tuple[str, ...]:
    """Return the node classes whose time changed, largest change first: `KSampler 0.42 → 0.84 s (+0.42)`.

    Classes with less than a tenth of all changes are left out.

    Args:
        before: Seconds per prompt by node class.
        after: The same for the later run.
        change: The change of the whole prompt in seconds. Nothing is returned unless the changes of all classes
            together explain about this much.
        most: The number of classes to return at most.
    """
    moves = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in dict.fromkeys([*after, *before])}
    if abs(sum(moves.values()) - change) > _TOLERANCE * abs(change):
        return ()
    whole = sum(abs(move) for move in moves.values())
    order = sorted(moves, key=lambda name: -abs(moves[name]))[:most]
    return tuple(
        f"{name} {before.get(name, 0.0):.3g} → {after.get(name, 0.0):.3g} s ({moves[name]:+.2g})".replace("-", "−")
        for name in order
        if whole and abs(moves[name]) >= _LEAST_SHARE * whole
    )


def _shown(value: Any) -> str:
    if value is None:
        return _ABSENT
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        # Shortened in the middle, since model names differ at their ends.
        return value if len(value) <= 60 else f"{value[:30]}…{value[-29:]}"
    return ", ".join(map(str, value)) if _is_list(value) else str(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, Mapping)
