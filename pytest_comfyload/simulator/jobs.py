"""The routes of newer servers that report prompts as jobs, and cancel them whether they are pending or running."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from pytest_comfyload.simulator.connections import SIMULATOR, Simulator

__all__ = ["JOB_ROUTES", "is_job_id"]

_STATES = ("pending", "in_progress", "completed", "failed", "cancelled")
_SORT_KEYS = ("created_at", "execution_duration")
_ORDERS = ("asc", "desc")
_PREVIEWED = ("images", "video", "audio", "3d", "text")
_ENDS = ("execution_success", "execution_error", "execution_interrupted")

Job = dict[str, Any]


class _BadQuery(Exception):
    """A request has an illegal value."""


def is_job_id(value: object) -> bool:
    """Return whether this is a UUID as newer servers write it: lowercase, with hyphens."""
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        return False


async def _get_jobs(request: web.Request) -> web.Response:
    try:
        return web.json_response(_page(request.app[SIMULATOR], dict(request.query)))
    except _BadQuery as error:
        return _bad(str(error))


def _page(simulator: Simulator, query: dict[str, str]) -> dict[str, Any]:
    states = _asked_states(query.get("status", ""))
    by, order = query.get("sort_by", "created_at").lower(), query.get("sort_order", "desc").lower()
    if by not in _SORT_KEYS:
        raise _BadQuery("sort_by must be 'created_at' or 'execution_duration'")
    if order not in _ORDERS:
        raise _BadQuery("sort_order must be 'asc' or 'desc'")
    limit, offset = _whole("limit", query), max(0, _whole("offset", query) or 0)
    if limit is not None and limit <= 0:
        raise _BadQuery("limit must be a positive integer")
    jobs = [job for job in _jobs(simulator) if job["status"] in states]
    jobs.sort(key=_duration if by == "execution_duration" else _created, reverse=order == "desc")
    shown = jobs[offset:] if limit is None else jobs[offset : offset + limit]
    more = offset + len(shown) < len(jobs)
    return {"jobs": shown, "pagination": {"offset": offset, "limit": limit, "total": len(jobs), "has_more": more}}


def _asked_states(text: str) -> list[str]:
    asked = [word.strip().lower() for word in text.split(",") if word.strip()]
    if unknown := [state for state in asked if state not in _STATES]:
        raise _BadQuery(f"Invalid status value(s): {', '.join(unknown)}. Valid values: {', '.join(_STATES)}")
    return asked or list(_STATES)


def _whole(name: str, query: dict[str, str]) -> int | None:
    try:
        return int(query[name]) if name in query else None
    except ValueError:
        raise _BadQuery(f"{name} must be an integer") from None


def _created(job: Job) -> float:
    return float(job.get("create_time", 0))


def _duration(job: Job) -> float:
    start, end = job.get("execution_start_time", 0), job.get("execution_end_time", 0)
    return float(end - start) if start and end else 0.0


def _jobs(simulator: Simulator) -> Iterator[Job]:
    queue = simulator.queue
    for item in queue.pending:
        yield _queued(item.to_json(), "pending")
    if queue.running:
        yield _queued(queue.running.to_json(), "in_progress")
    for entry in simulator.history.page(None, 0).values():
        yield _finished(entry)


def _queued(item: list[Any], state: str) -> Job:
    number, prompt_id, _, extra_data, _ = item
    counts = {"outputs_count": 0, "previewable_outputs_count": 0}
    return {"id": prompt_id, "status": state, "priority": number, **_from(extra_data), **counts}


def _finished(entry: dict[str, Any]) -> Job:
    number, prompt_id, _, extra_data, _ = entry["prompt"]
    messages = dict(entry["status"]["messages"])
    end = next(event for event in _ENDS if event in messages)
    state = dict(zip(_ENDS, ("completed", "failed", "cancelled"), strict=True))[end]
    shown = list(_files(entry["outputs"]))
    job = {
        "id": prompt_id,
        "status": state,
        "priority": number,
        **_from(extra_data),
        "execution_start_time": messages["execution_start"]["timestamp"],
        "execution_end_time": messages[end]["timestamp"],
        "outputs_count": sum(1 for _ in shown),
        "previewable_outputs_count": sum(_has_preview(file) for file in shown),
    }
    if end == "execution_error":
        job["execution_error"] = messages[end]
    previews = sorted(filter(_has_preview, shown), key=lambda file: file.get("type") != "output")
    return job | ({"preview_output": previews[0]} if previews else {})


def _from(extra_data: dict[str, Any]) -> Job:
    workflow = (extra_data.get("extra_pnginfo") or {}).get("workflow") or {}
    told = {"create_time": extra_data.get("create_time"), "workflow_id": workflow.get("id")}
    return {name: value for name, value in told.items() if value is not None}


def _files(outputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every file in the outputs, with its node and the node's name for its kind."""
    for node_id, output in outputs.items():
        for kind, items in output.items():
            if isinstance(items, list):
                yield from ({**item, "nodeId": node_id, "mediaType": kind} for item in items if isinstance(item, dict))


def _has_preview(file: dict[str, Any]) -> bool:
    return file["mediaType"] in _PREVIEWED or str(file.get("format", "")).startswith(("video/", "audio/"))


async def _get_job(request: web.Request) -> web.Response:
    simulator, job_id = request.app[SIMULATOR], request.match_info["job_id"]
    job = next((job for job in _jobs(simulator) if job["id"] == job_id), None)
    if job is None:
        return web.json_response({"error": "Job not found"}, status=404)
    return web.json_response(job | _details(simulator, job_id))


def _details(simulator: Simulator, job_id: str) -> Job:
    """Return the fields that are reported only when a single job is requested."""
    entry = simulator.history.get(job_id).get(job_id)
    if entry:
        _, _, prompt, extra_data, _ = entry["prompt"]
        more = {"outputs": entry["outputs"], "execution_status": entry["status"]}
        return more | {"workflow": {"prompt": prompt, "extra_data": extra_data}}
    queue = simulator.queue
    item = next(item for item in [*queue.pending, *filter(None, [queue.running])] if item.prompt_id == job_id)
    return {"workflow": {"prompt": item.prompt, "extra_data": item.extra_data}}


async def _cancel_job(request: web.Request) -> web.Response:
    return web.json_response({"cancelled": _cancel(request.app[SIMULATOR], request.match_info["job_id"])})


async def _cancel_jobs(request: web.Request) -> web.Response:
    try:
        body = await request.json()
    except ValueError:
        return _bad("Request body must be valid JSON")
    job_ids = body.get("job_ids") if isinstance(body, dict) else None
    if not isinstance(job_ids, list):
        return _bad("job_ids must be a list")
    if bad := [job_id if isinstance(job_id, str) else repr(job_id) for job_id in job_ids if not is_job_id(job_id)]:
        return web.json_response({"error": "job_ids contains invalid id(s)", "invalid_ids": bad}, status=400)
    cancelled = [_cancel(request.app[SIMULATOR], job_id) for job_id in job_ids]
    return web.json_response({"cancelled": any(cancelled)})


def _cancel(simulator: Simulator, job_id: str) -> bool:
    """Interrupt a running job, or remove a pending one from the queue; return whether it was one or the other."""
    queue = simulator.queue
    if queue.running and queue.running.prompt_id == job_id:
        simulator.executor.interrupt(job_id)
        return True
    pending = len(queue.pending)
    queue.delete([job_id])
    return len(queue.pending) < pending


def _bad(message: str) -> web.Response:
    return web.json_response({"error": message}, status=400)


JOB_ROUTES = [
    web.get("/api/jobs", _get_jobs),
    web.get("/api/jobs/{job_id}", _get_job),
    web.post("/api/jobs/cancel", _cancel_jobs),
    web.post("/api/jobs/{job_id}/cancel", _cancel_job),
]
