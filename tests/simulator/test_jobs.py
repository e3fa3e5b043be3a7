from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from pytest_comfyload.simulator.settings import SimulatorSettings
from tests.simulator.graphs import sleep, txt2img
from tests.simulator.replay import RECORDINGS
from tests.simulator.talking import Talk, talking, until

SETTINGS = SimulatorSettings(time_scale=50.0, probe_nodes=True)
LONG = 60.0
UNKNOWN = "00000000-0000-4000-8000-000000000000"


async def states(server: Talk, query: str = "") -> dict[str, str]:
    return {job["id"]: job["status"] for job in (await server.get(f"/api/jobs{query}"))["jobs"]}


def test_a_job_is_told_as_a_real_server_does() -> None:
    async def talk() -> Any:
        async with talking(SETTINGS) as server:
            for seed in (1, 1):
                await server.ended(await server.submit(txt2img(seed, steps=1)))
            return await server.get("/api/jobs?limit=2")

    recording = json.loads((RECORDINGS / "0.33.0" / "assets_txt2img.json").read_text(encoding="utf-8"))
    [recorded] = [each["response"] for each in recording["http"] if each["path"].startswith("/api/jobs")]
    ours = asyncio.run(talk())
    assert ours["pagination"] == recorded["pagination"]
    for job, real in zip(ours["jobs"], recorded["jobs"], strict=True):
        del real["preview_output"]["id"]  # the id of the asset
        assert {key: type(value) for key, value in job.items()} == {key: type(value) for key, value in real.items()}
        assert job["preview_output"].keys() == real["preview_output"].keys()
        assert (job["status"], job["preview_output"]["mediaType"]) == ("completed", "images")
        assert job["create_time"] <= job["execution_start_time"] <= job["execution_end_time"]


def test_jobs_are_cancelled_whatever_their_state_is() -> None:
    async def talk() -> None:
        async with talking(SETTINGS) as server, server.listening() as socket:
            failed = await server.submit(
                {
                    **sleep(0.1),
                    "2": {"class_type": "ProbeFail", "inputs": {"image": ["1", 0]}},
                    "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
                }
            )
            running, first, second = [await server.submit(sleep(LONG, seed)) for seed in range(3)]
            await until(socket, "execution_error")
            await until(socket, "progress")
            expected = {failed: "failed", running: "in_progress", first: "pending", second: "pending"}
            assert await states(server) == expected
            assert list(await states(server, "?sort_order=asc")) == [failed, running, first, second]
            assert await states(server, "?status=in_progress,failed&limit=1") == {running: "in_progress"}
            assert (await server.get(f"/api/jobs/{failed}"))["execution_error"]["exception_type"] == "ValueError"
            assert (await server.get(f"/api/jobs/{first}"))["workflow"]["prompt"] == sleep(LONG, 1)
            cancelled = [
                await server.post(f"/api/jobs/{each}/cancel", {}) for each in (second, second, failed, UNKNOWN)
            ]
            assert [each["cancelled"] for each in cancelled] == [True, False, False, False]
            answer = await server.post("/api/jobs/cancel", {"job_ids": [running, first, UNKNOWN]})
            assert answer == {"cancelled": True}
            await until(socket, "execution_interrupted")
            assert await states(server) == {failed: "failed", running: "cancelled"}

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/jobs?status=done", "Invalid status value(s): done. Valid values: pending, in_progress"),
        ("/api/jobs?sort_by=age", "sort_by must be 'created_at' or 'execution_duration'"),
        ("/api/jobs?sort_order=up", "sort_order must be 'asc' or 'desc'"),
        ("/api/jobs?limit=0", "limit must be a positive integer"),
        ("/api/jobs?offset=x", "offset must be an integer"),
        (f"/api/jobs/{UNKNOWN}", "Job not found"),
    ],
)
def test_a_bad_question_is_answered_with_its_fault(path: str, said: str) -> None:
    async def talk() -> Any:
        async with talking(SETTINGS) as server:
            return await server.get(path)

    assert asyncio.run(talk())["error"].startswith(said)


@pytest.mark.parametrize("body", [[], {"job_ids": "x"}, {"job_ids": ["A" * 36]}, {"job_ids": [{}]}])
def test_a_bad_batch_is_refused(body: Any) -> None:
    async def talk() -> Any:
        async with talking(SETTINGS) as server:
            return await server.post("/api/jobs/cancel", body)

    assert "job_ids" in asyncio.run(talk())["error"]


def test_older_servers_have_no_jobs() -> None:
    async def talk() -> int:
        async with (
            talking(replace(SETTINGS, comfyui_version="0.3.75")) as server,
            server.session.get(f"{server.url}/api/jobs") as response,
        ):
            return response.status

    assert asyncio.run(talk()) == 404
