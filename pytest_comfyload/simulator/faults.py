"""The table of faults, and the decision whether one occurs: equal seeds and equal keys give equal decisions."""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from pytest_comfyload.errors import UsageError

__all__ = ["FAULTS", "Fault", "Faults", "Kind", "check_faults", "parse_fault"]


class Kind(Enum):
    """The kind of value that a fault takes, as its help and its error messages name it."""

    SWITCH = "no value"
    PROBABILITY = "a probability from 0 to 1"
    COUNT = "a whole number from 1"
    SECONDS = "virtual seconds from 0"
    STEP = "virtual seconds, negative ones too"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that can go wrong; `default` is its value when only its name is given."""

    name: str
    kind: Kind
    default: float
    meaning: str

    def allows(self, value: float) -> bool:
        """Return whether the fault can have this value; True means the default."""
        if value is True or self.kind is Kind.SWITCH:
            return value is True
        if not math.isfinite(value):
            return False
        legal = {
            Kind.PROBABILITY: 0 <= value <= 1,
            Kind.COUNT: value >= 1 and value == int(value),
            Kind.SECONDS: value >= 0,
            Kind.STEP: True,
        }
        return legal[self.kind]


FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        # Faults of a prompt during its execution.
        Fault("oom", Kind.PROBABILITY, 1, "per prompt: the sampler runs out of VRAM; every model is unloaded"),
        Fault(
            "silent-oom", Kind.PROBABILITY, 1, "per prompt: the VAE retries in tiles, 3 × as long; only the log tells"
        ),
        Fault("node-error", Kind.PROBABILITY, 1, "per prompt: the sampler raises a RuntimeError"),
        Fault("interrupt", Kind.PROBABILITY, 1, "per prompt: interrupted while it samples"),
        Fault("cached-empty-outputs", Kind.SWITCH, 1, "/history shows no outputs of nodes that were cached"),
        # Faults of the worker and its queue.
        Fault("dead-worker", Kind.COUNT, 1, "after N prompts nothing executes, though HTTP goes on answering"),
        Fault("restart", Kind.COUNT, 1, "after N prompts the server is gone for a second; queue and history are lost"),
        Fault("clear-queue", Kind.COUNT, 1, "after N prompts the queue is cleared, once"),
        Fault("foreign", Kind.COUNT, 3, "N foreign prompts wait or run, at any time"),
        Fault("clock-step", Kind.STEP, 5, "the server's clock jumps once, after two prompts"),
        Fault("history-race", Kind.SECONDS, 0.5, "delay between execution_success and the prompt in /history"),
        # Faults of the GPU.
        Fault("overheat", Kind.SWITCH, 1, "the GPU's cooling fails: 98 °C under load, at half its clock"),
        # Faults of events.
        Fault("deaf-socket", Kind.COUNT, 20, "each socket stays open, but gets nothing after N messages"),
        Fault("drop-socket", Kind.COUNT, 20, "each socket is closed after N messages"),
        Fault("stalled-socket", Kind.SECONDS, 5, "delay of every message, as with a client that does not read"),
        Fault("lost-event", Kind.PROBABILITY, 1, "per prompt: its execution_success is not sent"),
        Fault("duplicate-event", Kind.PROBABILITY, 1, "per event: it is sent twice"),
        # Faults of requests.
        Fault("login", Kind.SWITCH, 1, "every route answers 401"),
        Fault("http-500", Kind.PROBABILITY, 1, "per request: POST /prompt answers 500 and accepts nothing"),
        Fault("http-503-burst", Kind.SECONDS, 5, "every route answers 503 for this long after the first prompt"),
        Fault("slow-post", Kind.SECONDS, 2, "delay before POST /prompt accepts"),
        Fault("early-event", Kind.SECONDS, 0.5, "POST /prompt answers this long after acceptance: events come first"),
        Fault("slow-history", Kind.SECONDS, 2, "delay of /history"),
        Fault("evicted-history", Kind.SWITCH, 1, "/history is always empty"),
        Fault("slow-view", Kind.SECONDS, 2, "delay of /view"),
        Fault("missing-output", Kind.PROBABILITY, 1, "per picture: /view answers 404"),
        Fault("blank-picture", Kind.PROBABILITY, 1, "per picture: it is black"),
        Fault("truncated-picture", Kind.PROBABILITY, 1, "per picture: its second half is missing"),
    )
}


class Faults:
    """The faults of one server; falsy if there are none."""

    def __init__(self, values: Mapping[str, float], seed: int) -> None:
        self._values = {name: FAULTS[name].default if value is True else value for name, value in values.items()}
        self._seed = seed

    def __bool__(self) -> bool:
        return bool(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def get(self, name: str, otherwise: float) -> float:
        """Return the value of a fault, or `otherwise` if it is not set."""
        return self._values.get(name, otherwise)

    def strikes(self, name: str, key: object) -> bool:
        """Return whether a fault with a probability occurs for what `key` identifies; the answer never changes."""
        chance = self._values.get(name, 0)
        return random.Random(f"{self._seed}/{name}/{key}").random() < chance


def parse_fault(text: str) -> tuple[str, float]:
    """Parse `NAME` or `NAME=VALUE` into name and value. Raises UsageError for a value that is not a number."""
    name, equals, value = text.partition("=")
    try:
        return name, float(value) if equals else True
    except ValueError:
        raise UsageError(f"--fault {text}: {value!r} is not a number") from None


def check_faults(values: Mapping[str, float]) -> None:
    """Check that each fault exists and can have its value. Raises: UsageError."""
    for name, value in values.items():
        if name not in FAULTS:
            near = ", ".join(difflib.get_close_matches(name, FAULTS, n=3, cutoff=0.0))
            raise UsageError(f"unknown fault {name!r}; the nearest are: {near} (`comfyload simulate --help` has all)")
        if not FAULTS[name].allows(value):
            raise UsageError(f"the fault {name} takes {FAULTS[name].kind.value}, not {value!r}")
