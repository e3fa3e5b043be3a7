"""The HTTP routes of the server, under / and /api, which respond as the emulated ComfyUI does.

There is also /metrics, for which a real machine has NVIDIA's exporter on a port of its own. A request of the wrong
shape raises an exception, which aiohttp turns into the same 500 as on the real server.
"""

from __future__ import annotations

import uuid
from typing import Any

from aiohttp import web

from pytest_comfyload.simulator.connections import SIMULATOR, Simulator, connect, features
from pytest_comfyload.simulator.files import FILE_ROUTES
from pytest_comfyload.simulator.jobs import JOB_ROUTES, is_job_id
from pytest_comfyload.simulator.queue import QueuedPrompt
from pytest_comfyload.simulator.sensors import CONTENT_TYPE, gpu_metrics, gpu_uuid, system_stats
from pytest_comfyload.simulator.validation import validate
from pytest_comfyload.simulator.versions import MAX_UPLOAD_BYTES
from pytest_comfyload.simulator.vram import file_size

__all__ = ["MAX_UPLOAD_BYTES", "add_routes"]

# Modification time of all model files, in seconds since the epoch.
_SAVED = 1.7e9
_PROMPT_ID = (
    "prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it to let the server generate one"
)
_SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")


def add_routes(app: web.Application) -> None:
    """Add every route to an application, which must already have its Simulator."""
    modern = app[SIMULATOR].settings.version.modern
    routes = [*_ROUTES, *FILE_ROUTES]
    app.add_routes(routes)
    app.add_routes([web.RouteDef(route.method, "/api" + route.path, route.handler, route.kwargs) for route in routes])
    app.add_routes(JOB_ROUTES if modern else [])
    app.router.add_get("/internal/logs/raw", _get_log)
    app.router.add_get("/internal/files/{folder}", _get_files)
    app.router.add_get("/metrics", _get_metrics)
    app.router.add_get("/", _page)
    app.router.add_get("/{path:.*}", _nothing)


async def _page(request: web.Request) -> web.Response:
    return web.Response(text="<html>pytest-comfyload simulator</html>\n", content_type="text/html")


async def _nothing(request: web.Request) -> web.Response:
    return web.Response(status=404, headers={"Content-Type": "application/octet-stream"})


async def _post_prompt(request: web.Request) -> web.Response:
    simulator = request.app[SIMULATOR]
    modern = simulator.settings.version.modern
    simulator.machine.log.write("got prompt\n")
    body = await _body(request)
    number = _number(body, simulator)
    if "prompt" not in body:
        return _refusal("no_prompt", "No prompt provided", "No prompt provided")
    if "prompt_id" in body and modern and not is_job_id(body["prompt_id"]):
        return _refusal("invalid_prompt_id", "prompt_id must be a valid UUID", _PROMPT_ID)
    simulator.machine.learn(body["prompt"])
    verdict = validate(body["prompt"], simulator.machine.library, body.get("partial_execution_targets"), modern=modern)
    if verdict.error is not None:
        return web.json_response({"error": verdict.error, "node_errors": verdict.node_errors}, status=400)
    item = _item(body, number, verdict.outputs, simulator)
    simulator.executor.submit(item)
    return web.json_response({"prompt_id": item.prompt_id, "number": item.number, "node_errors": verdict.node_errors})


async def _post_workflow(request: web.Request) -> web.Response:
    """Learn a workflow that a client announces: /object_info then has its classes. Real servers lack this route."""
    machine = request.app[SIMULATOR].machine
    machine.learn((await _body(request)).get("prompt"))
    return web.json_response({"guessed_times": machine.guessed_times})


async def _body(request: web.Request) -> dict[str, Any]:
    """Return the JSON body; one that is not an object counts as empty, as on the real server."""
    body = await request.json()
    return body if isinstance(body, dict) else {}


def _number(body: dict[str, Any], simulator: Simulator) -> float:
    if "number" in body:
        return float(body["number"])
    number = simulator.queue.next_number()
    return -number if body.get("front") else number


def _item(body: dict[str, Any], number: float, outputs: list[str], simulator: Simulator) -> QueuedPrompt:
    extra_data: dict[str, Any] = {**body.get("extra_data", {})}
    if "client_id" in body:
        extra_data["client_id"] = body["client_id"]
    for secret in _SECRETS:
        extra_data.pop(secret, None)
    now = simulator.clock.now()
    if simulator.settings.version.stamped:
        extra_data["create_time"] = simulator.clock.stamp(now)
    prompt_id = str(body.get("prompt_id", uuid.uuid4()))
    return QueuedPrompt(number, prompt_id, body["prompt"], extra_data, outputs, now)


def _refusal(kind: str, message: str, details: str) -> web.Response:
    error = {"type": kind, "message": message, "details": details, "extra_info": {}}
    return web.json_response({"error": error, "node_errors": {}}, status=400)


async def _get_prompt(request: web.Request) -> web.Response:
    return web.json_response({"exec_info": {"queue_remaining": request.app[SIMULATOR].queue.remaining}})


async def _get_queue(request: web.Request) -> web.Response:
    queue = request.app[SIMULATOR].queue
    running = [queue.running] if queue.running else []
    lists = {"queue_running": running, "queue_pending": queue.pending}
    return web.json_response({name: [item.to_json() for item in items] for name, items in lists.items()})


async def _post_queue(request: web.Request) -> web.Response:
    queue = request.app[SIMULATOR].queue
    body = await _body(request)
    if body.get("clear"):
        queue.clear()
    if "delete" in body:
        queue.delete(body["delete"])
    return web.Response()


async def _get_history(request: web.Request) -> web.Response:
    max_items = request.query.get("max_items")
    offset = int(request.query.get("offset", -1))
    page = request.app[SIMULATOR].history.page(None if max_items is None else int(max_items), offset)
    return web.json_response(page)


async def _get_history_entry(request: web.Request) -> web.Response:
    return web.json_response(request.app[SIMULATOR].history.get(request.match_info["prompt_id"]))


async def _post_history(request: web.Request) -> web.Response:
    history = request.app[SIMULATOR].history
    body = await _body(request)
    if body.get("clear"):
        history.clear()
    if "delete" in body:
        history.delete(body["delete"])
    return web.Response()


async def _post_interrupt(request: web.Request) -> web.Response:
    try:
        body = await _body(request)
    except ValueError:
        body = {}
    request.app[SIMULATOR].executor.interrupt(body.get("prompt_id"))
    return web.Response()


async def _post_free(request: web.Request) -> web.Response:
    body = await _body(request)
    request.app[SIMULATOR].executor.free(bool(body.get("unload_models")), bool(body.get("free_memory")))
    return web.Response()


async def _get_system_stats(request: web.Request) -> web.Response:
    simulator = request.app[SIMULATOR]
    return web.json_response(system_stats(simulator.settings, simulator.machine, simulator.clock.now()))


async def _get_object_info(request: web.Request) -> web.Response:
    library = request.app[SIMULATOR].machine.library
    return web.json_response({name: library.info(name) for name in library})


async def _get_class_info(request: web.Request) -> web.Response:
    library = request.app[SIMULATOR].machine.library
    name = request.match_info["class_type"]
    return web.json_response({name: library.info(name)} if name in library else {})


async def _get_models(request: web.Request) -> web.Response:
    return web.json_response(request.app[SIMULATOR].settings.version.folders)


async def _get_folder(request: web.Request) -> web.Response:
    folder, settings = request.match_info["folder"], request.app[SIMULATOR].settings
    if folder not in settings.version.folders:
        return web.Response(status=404)
    return web.json_response(request.app[SIMULATOR].machine.library.models(folder))


async def _get_files_with_sizes(request: web.Request) -> web.Response:
    folder, settings = request.match_info["folder"], request.app[SIMULATOR].settings
    if folder not in settings.version.folders:
        return web.Response(status=404)
    return web.json_response(
        [
            {"name": file, "pathIndex": 0, "modified": _SAVED, "created": _SAVED, "size": file_size(folder, file)}
            for file in request.app[SIMULATOR].machine.library.models(folder)
        ]
    )


async def _get_custom_nodes(request: web.Request) -> web.Response:
    """Serve ComfyUI-Manager's list of custom nodes, or 404 if there are none."""
    packs = request.app[SIMULATOR].settings.custom_nodes
    if not packs:
        return await _nothing(request)
    told = {name: {"ver": commit, "cnr_id": "", "aux_id": None, "enabled": True} for name, commit in packs.items()}
    return web.json_response(told)


async def _get_embeddings(request: web.Request) -> web.Response:
    files = request.app[SIMULATOR].settings.models_in("embeddings")
    return web.json_response([file.rpartition(".")[0] or file for file in files])


async def _get_features(request: web.Request) -> web.Response:
    return web.json_response(features(request.app[SIMULATOR].settings))


async def _get_log(request: web.Request) -> web.Response:
    return web.json_response(request.app[SIMULATOR].machine.log.to_json())


async def _get_files(request: web.Request) -> web.Response:
    pictures, folder = request.app[SIMULATOR].machine.pictures, request.match_info["folder"]
    if folder not in ("output", "input", "temp"):
        return web.json_response({"error": "Invalid directory type"}, status=400)
    return web.json_response(pictures.input_names() if folder == "input" else pictures.generated_names(folder))


async def _get_metrics(request: web.Request) -> web.Response:
    simulator = request.app[SIMULATOR]
    gpu = gpu_uuid(simulator.settings, request.get_extra_info("sockname")[1])
    text = gpu_metrics(simulator.machine, gpu, simulator.clock.now())
    return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


async def _get_extensions(request: web.Request) -> web.Response:
    return web.json_response([])


_ROUTES = [
    web.get("/ws", connect),
    web.post("/prompt", _post_prompt),
    web.post("/simulator/workflow", _post_workflow),
    web.get("/prompt", _get_prompt),
    web.get("/queue", _get_queue),
    web.post("/queue", _post_queue),
    web.get("/history", _get_history),
    web.post("/history", _post_history),
    web.get("/history/{prompt_id}", _get_history_entry),
    web.post("/interrupt", _post_interrupt),
    web.post("/free", _post_free),
    web.get("/system_stats", _get_system_stats),
    web.get("/object_info", _get_object_info),
    web.get("/object_info/{class_type}", _get_class_info),
    web.get("/models", _get_models),
    web.get("/models/{folder}", _get_folder),
    web.get("/experiment/models/{folder}", _get_files_with_sizes),
    web.get("/customnode/installed", _get_custom_nodes),
    web.get("/embeddings", _get_embeddings),
    web.get("/features", _get_features),
    web.get("/extensions", _get_extensions),
]
