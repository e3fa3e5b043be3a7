"""Every error this package raises, with the blame in its type; and the legal choices that a message names.

    ComfyloadError
    ├── UsageError            the user wrote something invalid: marker, option, argument
    │   └── WorkflowError     the workflow file, or what was asked of it, does not fit
    ├── GeneratorError        our own side could not do its work
    ├── ServerError           the server, or the way to it, is at fault
    │   ├── ConnectionRefused     nothing listens there
    │   ├── HostNotFound          the name does not resolve
    │   ├── TlsFailure            the certificate or the handshake
    │   ├── Disconnected          the server closed the connection in the middle
    │   ├── ServerTimeout         no answer in time
    │   ├── LoginRequired         401, 403 or a login page where ComfyUI should answer
    │   ├── NotComfyUI            something answers, but not in ComfyUI's language
    │   ├── HttpError             a status that the call does not expect
    │   │   └── PromptRejected    POST /prompt said 400, with node errors
    │   ├── WorkflowNotServable   the server lacks a node class or a model of the workflow
    │   ├── PromptLost            a prompt that was accepted is nowhere to be found
    │   └── WorkerDead            the server answers, but executes nothing any more
    ├── NoSamples             a metric was compared that has no samples
    ├── NoBaseline            a figure of earlier runs was asked for that must be there, and is not
    └── StoreError            the store of runs, or a file in it, cannot be read or written
        └── BadFile               one file there cannot be used; the others can

    LoadStopped               no error: load cancelled, since pytest is ending

Messages are one sentence or a few short lines: the bad value, the legal ones, the way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from pytest_comfyload.text import harmless

__all__ = [
    "BadFile",
    "ComfyloadError",
    "ConnectionRefused",
    "Disconnected",
    "GeneratorError",
    "HostNotFound",
    "HttpError",
    "LoadStopped",
    "LoginRequired",
    "NoSamples",
    "NotComfyUI",
    "PromptLost",
    "PromptRejected",
    "ServerError",
    "ServerTimeout",
    "StoreError",
    "TlsFailure",
    "UsageError",
    "WorkerDead",
    "WorkflowError",
    "WorkflowNotServable",
    "close_to",
    "nearest",
]


class ComfyloadError(Exception):
    """The root of all errors of this package; text that a message quotes is made harmless for terminals and logs."""

    def __init__(self, message: str = "") -> None:
        super().__init__(harmless(message))


class UsageError(ComfyloadError):
    """The user wrote something invalid."""


class WorkflowError(UsageError):
    """The workflow, or what was asked of it, does not fit."""


class GeneratorError(ComfyloadError):
    """The load generator itself could not do its work."""


class ServerError(ComfyloadError):
    """The server, or the way to it, is at fault."""


class ConnectionRefused(ServerError):
    """Nothing listens at the address."""


class HostNotFound(ServerError):
    """The host name does not resolve."""


class TlsFailure(ServerError):
    """The TLS handshake or the certificate failed."""


class Disconnected(ServerError):
    """The server closed the connection before its answer was complete."""


class ServerTimeout(ServerError):
    """The server did not answer in time."""


class ResponseTooLarge(ServerError):
    """A response is larger than the limit."""


class LoginRequired(ServerError):
    """Something in front of ComfyUI asks for credentials."""


class NotComfyUI(ServerError):
    """Something answers at the address, but not in ComfyUI's language."""


class HttpError(ServerError):
    """The server answered with a status that the call does not expect."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class PromptRejected(HttpError):
    """POST /prompt answered 400; `node_errors` is the server's own account, by node id."""

    def __init__(self, message: str, status: int, node_errors: Mapping[str, Any]) -> None:
        super().__init__(message, status)
        self.node_errors = node_errors


class WorkflowNotServable(ServerError):
    """The server lacks a node class or a model that the workflow names."""


class PromptLost(ServerError):
    """The server accepted a prompt, and now it is in neither its queue nor its history."""


class WorkerDead(ServerError):
    """The server answers HTTP and accepts prompts, but its worker is gone and nothing runs."""


class NoSamples(ComfyloadError):
    """A metric was compared, but nothing was measured for it."""


class NoBaseline(ComfyloadError):
    """A figure of earlier runs is required, and there are none."""


class StoreError(ComfyloadError):
    """The store, or one file of it, cannot be read or written."""


class BadFile(StoreError):
    """One file of a store, or a spool, cannot be used; `movable`: no version or user can, and it may be set aside."""

    def __init__(self, name: str, why: str, *, movable: bool = True) -> None:
        super().__init__(f"{name} {why}")
        self.movable = movable


class LoadStopped(Exception):
    """A load was ended in the middle because the test run is ending."""


# A server may have any number of names, of any length: so many are compared, and those of so many characters.
_MOST_NAMES, _LONGEST_NAME = 5000, 200


def close_to(word: str, legal: Iterable[object], limit: int = 3, cutoff: float = 0.6) -> list[str]:
    """Return those of `legal` that `word` may be a misspelling of, the nearest first; often none.

    `cutoff` is the least similarity, from 0 to 1, as difflib counts it.
    """
    names = dict.fromkeys(name for name in map(str, islice(legal, _MOST_NAMES)) if len(name) <= _LONGEST_NAME)
    return difflib.get_close_matches(word[:_LONGEST_NAME], names, n=limit, cutoff=cutoff)


def nearest(word: str, legal: Iterable[object], limit: int = 10) -> str:
    """`legal` as one line, the nearest to `word` first, at most `limit` of them and then how many there are."""
    names = list(dict.fromkeys(str(name) for name in legal))
    close = close_to(word, names)
    ordered = close + [name for name in names if name not in close]
    shown = ", ".join(map(_shortened, ordered[:limit]))
    return shown if len(ordered) <= limit else f"{shown}, … ({len(ordered)} in all)"


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
