"""The deployment checklist: each check is declared once, with the condition that it verifies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from pytest_comfyload.deploy.examined import Deployment, Finding, failed
from pytest_comfyload.deploy.front_checks import check_balancer, check_buffering, check_exposure, check_rate_limit
from pytest_comfyload.deploy.stack_checks import check_monitoring, check_restart, check_toolkit
from pytest_comfyload.deploy.worker_checks import check_cache, check_databases, check_growth, check_versions
from pytest_comfyload.deploy.workflow_trial import Trial, check_models, check_vram, try_workflow
from pytest_comfyload.errors import ComfyloadError

__all__ = ["CHECKS", "ChecklistItem", "Doctor"]


class Doctor:
    """Examiner of one deployment; checks that need a prompt of the workflow share it."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._trials: Sequence[Trial] | None = None

    async def examine(self, check: ChecklistItem) -> Finding:
        """Return the finding of a check; a server that does not answer properly is a failure."""
        try:
            return await check.find(self)
        except ComfyloadError as error:
            return failed(str(error), "check that it runs and can be reached from here: docker compose ps")

    async def trials(self) -> Sequence[Trial]:
        """Run one prompt of the workflow on each worker, once."""
        if self._trials is None:
            workflow = self.deployment.workflow
            servers = self.deployment.servers if workflow is not None else ()
            self._trials = [await try_workflow(server, workflow) for server in servers if workflow is not None]
        return self._trials


@dataclass(frozen=True, slots=True)
class ChecklistItem:
    """One item of the checklist; `holds` is the condition that must be true."""

    name: str
    holds: str
    find: Callable[[Doctor], Awaitable[Finding]] = field(repr=False)


def _check(name: str, holds: str, find: Callable[[Deployment], Awaitable[Finding]]) -> ChecklistItem:
    return ChecklistItem(name, holds, lambda doctor: find(doctor.deployment))


async def _models(doctor: Doctor) -> Finding:
    return check_models(doctor.deployment, await doctor.trials())


async def _vram(doctor: Doctor) -> Finding:
    return check_vram(doctor.deployment, await doctor.trials())


# In the order in which they run: the rate limit last, since it uses up the quota of this machine's address.
CHECKS = (
    _check("toolkit", "containers get the GPUs", check_toolkit),
    ChecklistItem("models", "every worker has the workflow's files, and runs it", _models),
    ChecklistItem("vram", "the GPU's memory is enough for the workflow", _vram),
    _check("balancer", "users are spread, and keep their events, history and pictures", check_balancer),
    _check("monitoring", "Prometheus scrapes every worker and has the alerts; Grafana runs", check_monitoring),
    _check("buffering", "a burst waits its turn: none is refused, all end", check_buffering),
    _check("restart", "a crashed worker restarts by itself", check_restart),
    _check("exposure", "ComfyUI is not reached without a password, or past the balancer", check_exposure),
    _check("cache", "node results are cached, and there is memory for them", check_cache),
    _check("growth", "output folders and histories stay small", check_growth),
    _check("database", "each worker has a database of its own", check_databases),
    _check("versions", "all workers are the same", check_versions),
    _check("rate-limit", "a user with too many prompts gets 429, and other users do not", check_rate_limit),
)
