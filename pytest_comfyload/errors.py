"""Errors of this package, whose types show who is at fault, and the lists of legal values in their messages.

    ComfyloadError
    ├── UsageError            the user wrote something invalid: marker, option, argument
    │   └── WorkflowError     the workflow is invalid, or lacks what was requested of it
    ├── GeneratorError        the load generator itself failed
    ├── ServerError           the server, or the connection to it, is at fault
    │   ├── ConnectionRefused     nothing listens at the address
    │   ├── HostNotFound          the name does not resolve
    │   ├── TlsFailure            the certificate or the handshake
    │   ├── Disconnected          the server closed the connection too early
    │   ├── ServerTimeout         no response in time
    │   ├── ResponseTooLarge      a response above the size limit
    │   ├── LoginRequired         401, 403 or a login page where ComfyUI should answer
    │   ├── NotComfyUI            something answers, but it is not ComfyUI
    │   ├── HttpError             an unexpected status
    │   │   └── PromptRejected    POST /prompt answered 400, with node errors
    │   ├── WorkflowNotServable   the server lacks a node class or a model of the workflow
    │   ├── PromptLost            an accepted prompt is in neither the queue nor the history
    │   └── WorkerDead            the server answers, but no longer executes prompts
    ├── NoSamples             a metric was compared that has no samples
    ├── NoBaseline            a required figure of earlier runs does not exist
    └── StoreError            the store of runs, or a file in it, cannot be read or written
        └── BadFile               one file of the store is unusable; the others are not affected

    LoadStopped               not an error: the load was cancelled, since pytest is stopping

Messages are one sentence or a few short lines: the invalid value, the legal values, and what to do.
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
    """Base class of all errors of this package; messages are made harmless for terminals and logs."""

    def __init__(self, message: str = "") -> None:
        super().__init__(harmless(message))


class UsageError(ComfyloadError):
    """The user wrote something invalid."""


class WorkflowError(UsageError):
    """The workflow is invalid, or lacks what was requested of it."""


class GeneratorError(ComfyloadError):
    """The load generator itself failed."""


class ServerError(ComfyloadError):
    """The server, or the connection to it, is at fault."""


class ConnectionRefused(ServerError):
    """Nothing listens at the address."""


class HostNotFound(ServerError):
    """The host name does not resolve."""


class TlsFailure(ServerError):
    """The TLS handshake or the certificate failed."""


class Disconnected(ServerError):
    """The server closed the connection before its response was complete."""


class ServerTimeout(ServerError):
    """The server did not respond in time."""


class ResponseTooLarge(ServerError):
    """A response is larger than the limit."""


class LoginRequired(ServerError):
    """Something in front of ComfyUI requires credentials."""


class NotComfyUI(ServerError):
    """Something answers at the address, but it is not ComfyUI."""


class HttpError(ServerError):
    """The server answered with an unexpected status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class PromptRejected(HttpError):
    """POST /prompt answered 400; `node_errors` are the server's error details, by node id."""

    def __init__(self, message: str, status: int, node_errors: Mapping[str, Any]) -> None:
        super().__init__(message, status)
        self.node_errors = node_errors


class WorkflowNotServable(ServerError):
    """The server lacks a node class or a model that the workflow names."""


class PromptLost(ServerError):
    """The server accepted a prompt that is now in neither its queue nor its history."""


class WorkerDead(ServerError):
    """The server answers HTTP and accepts prompts, but its worker is dead and nothing is executed."""


class NoSamples(ComfyloadError):
    """A metric was compared that has no samples."""


class NoBaseline(ComfyloadError):
    """A figure of earlier runs is required, and there are no such runs."""


class StoreError(ComfyloadError):
    """The store, or one of its files, cannot be read or written."""


class BadFile(StoreError):
    """One file of a store, or a spool, is unusable.

    `movable`: no version or user can use it, so it may be set aside.
    """

    def __init__(self, name: str, why: str, *, movable: bool = True) -> None:
        super().__init__(f"{name} {why}")
        self.movable = movable


class LoadStopped(Exception):
    """A load was cancelled because the test run is stopping."""


# Limits on the names that are compared, and on their length: a server may have any number of names of any length.
_MOST_NAMES, _LONGEST_NAME = 5000, 200


def close_to(word: str, legal: Iterable[object], limit: int = 3, cutoff: float = 0.6) -> list[str]:
    """Return the legal names that `word` may be a misspelling of, the closest first; often none.

    `cutoff` is the minimum similarity, from 0 to 1, as difflib computes it.
    """
    names = dict.fromkeys(name for name in map(str, islice(legal, _MOST_NAMES)) if len(name) <= _LONGEST_NAME)
    return difflib.get_close_matches(word[:_LONGEST_NAME], names, n=limit, cutoff=cutoff)


def nearest(word: str, legal: Iterable[object], limit: int = 10) -> str:
    """Return `legal` on one line, the closest to `word` first: at most `limit` names, then the total number."""
    names = list(dict.fromkeys(str(name) for name in legal))
    close = close_to(word, names)
    ordered = close + [name for name in names if name not in close]
    shown = ", ".join(map(_shortened, ordered[:limit]))
    return shown if len(ordered) <= limit else f"{shown}, … ({len(ordered)} in all)"


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
