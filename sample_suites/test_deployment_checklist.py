"""The checks of `comfyload doctor` as tests: copy this file, and describe your deployment below.

    pytest test_deployment_checklist.py --comfyui-url https://comfy.example.org \
        --comfyui-worker http://gpu1:8188 --comfyui-worker http://gpu2:8188

A check that cannot tell is skipped with the reason: that is not a pass. Without --comfyui-url all are skipped.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.deploy.doctor import CHECKS, ChecklistItem, Doctor
from pytest_comfyload.deploy.examined import ComposeFile, Deployment
from pytest_comfyload.workflow.workflow import Workflow

WORKFLOW = "txt2img"  # what your users send: a file, or the name of a shipped workflow
STACK = ""  # the folder of docker-compose.yml
PROMETHEUS = ""  # http://prometheus:9090
GRAFANA = ""  # http://grafana:3000/grafana


@pytest.fixture(scope="module")
def doctor(pytestconfig: pytest.Config) -> Doctor:
    fronts = pytestconfig.getoption("--comfyui-url")
    if not fronts:
        pytest.skip("no deployment to check: give its --comfyui-url")
    return Doctor(
        Deployment(
            front=ServerAddress.parse(fronts[0]),
            workers=[ServerAddress.parse(url) for url in pytestconfig.getoption("--comfyui-worker") or ()],
            stack=ComposeFile.read(Path(STACK)) if STACK else None,
            workflow=Workflow.load(WORKFLOW, root=Path(__file__).parent),
            prometheus=ServerAddress.parse(PROMETHEUS) if PROMETHEUS else None,
            grafana=ServerAddress.parse(GRAFANA) if GRAFANA else None,
        )
    )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_deployment(check: ChecklistItem, doctor: Doctor) -> None:
    finding = asyncio.run(doctor.examine(check))
    if finding.status == "cannot tell":
        pytest.skip(f"cannot tell: {finding.evidence}; {finding.remedy}")
    assert finding.status == "pass", f"{finding.evidence}; {finding.remedy}"
