"""What the environment variables of a CI system say: which system it is, which job this is, and what triggered it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pytest_comfyload.history.limits import Revision
from pytest_comfyload.history.redaction import public_text

__all__ = ["Ci", "ci_of"]

Environ = Mapping[str, str]


class Ci(msgspec.Struct, frozen=True, omit_defaults=True):
    """A CI job.

    `branch` is the branch that was pushed, `base` the target branch of a pull request, and `head` the commit at the
    tip of the pull request's branch.
    """

    system: str
    url: str | None = None
    run: str | None = None
    branch: str | None = None
    base: str | None = None
    pull_request: str | None = None
    head: Revision | None = None
    tag: str | None = None


def ci_of(environ: Environ) -> Ci | None:
    """Return the CI job that this process runs in; None outside CI.

    An unsupported CI system that sets `CI` is named `unknown`.
    """
    for sign, read in _SYSTEMS.items():
        if environ.get(sign, "").lower() not in ("", "0", "false"):
            return read(environ)
    return Ci("unknown") if environ.get("CI", "").lower() not in ("", "0", "false") else None


def _github(environ: Environ) -> Ci:
    server, repository, run = (environ.get(f"GITHUB_{name}") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID"))
    kind, _, name = environ.get("GITHUB_REF", "").removeprefix("refs/").partition("/")
    pull_request = _event(environ).get("pull_request")
    pull_request = pull_request if isinstance(pull_request, dict) else {}
    head = pull_request.get("head")
    return Ci(
        "GitHub",
        url=public_text(f"{server}/{repository}/actions/runs/{run}") if server and repository and run else None,
        run="/".join(filter(None, (run, environ.get("GITHUB_RUN_ATTEMPT")))) or None,
        branch=environ.get("GITHUB_HEAD_REF") or (name if kind == "heads" else None),
        base=environ.get("GITHUB_BASE_REF") or None,
        pull_request=name.partition("/")[0] if kind == "pull" else _text(pull_request.get("number")),
        head=_revision(head.get("sha")) if isinstance(head, dict) else None,
        tag=name if kind == "tags" else None,
    )


def _event(environ: Environ) -> dict[str, Any]:
    """Return the event that triggered the workflow, which GitHub stores in a file; empty if it cannot be read."""
    try:
        event = json.loads(Path(environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    except (KeyError, OSError, ValueError):
        return {}
    return event if isinstance(event, dict) else {}


def _gitlab(environ: Environ) -> Ci:
    return Ci(
        "GitLab",
        url=_url(environ, "CI_JOB_URL", "CI_PIPELINE_URL"),
        run=environ.get("CI_JOB_ID"),
        branch=environ.get("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME") or environ.get("CI_COMMIT_BRANCH"),
        base=environ.get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME"),
        pull_request=environ.get("CI_MERGE_REQUEST_IID"),
        head=_revision(environ.get("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA")),
        tag=environ.get("CI_COMMIT_TAG"),
    )


def _jenkins(environ: Environ) -> Ci:
    change = environ.get("CHANGE_ID")
    branch = environ.get("CHANGE_BRANCH") if change else environ.get("BRANCH_NAME") or environ.get("GIT_BRANCH")
    return Ci(
        "Jenkins",
        url=_url(environ, "BUILD_URL"),
        run=environ.get("BUILD_TAG") or environ.get("BUILD_NUMBER"),
        branch=branch.removeprefix("origin/") if branch else None,
        base=environ.get("CHANGE_TARGET"),
        pull_request=change,
        tag=environ.get("TAG_NAME"),
    )


def _buildkite(environ: Environ) -> Ci:
    pull_request = environ.get("BUILDKITE_PULL_REQUEST")
    return Ci(
        "Buildkite",
        url=_url(environ, "BUILDKITE_BUILD_URL"),
        run=environ.get("BUILDKITE_BUILD_ID"),
        branch=environ.get("BUILDKITE_BRANCH"),
        base=environ.get("BUILDKITE_PULL_REQUEST_BASE_BRANCH") or None,
        pull_request=pull_request if pull_request != "false" else None,
        tag=environ.get("BUILDKITE_TAG") or None,
    )


_SYSTEMS: Mapping[str, Callable[[Environ], Ci]] = {
    "GITHUB_ACTIONS": _github,
    "GITLAB_CI": _gitlab,
    "JENKINS_URL": _jenkins,
    "BUILDKITE": _buildkite,
}


def _url(environ: Environ, *names: str) -> str | None:
    given = [environ[name] for name in names if environ.get(name)]
    return public_text(given[0]) if given else None


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, str | int) and value else None


def _revision(value: object) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"[0-9A-Za-z]{1,64}", value) else None
