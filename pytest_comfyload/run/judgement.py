"""Validation of workflows by the server: a prompt that contradicts its /object_info is sent to it before the load."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.engine.servers import take_out
from pytest_comfyload.errors import PromptRejected
from pytest_comfyload.protocol.bodies import refused_inputs
from pytest_comfyload.run.prepare import FittedPart
from pytest_comfyload.run.target import unsocketed
from pytest_comfyload.scenario.extra_data import OWN_KEY
from pytest_comfyload.workflow.graph import Graph, NodeGraph, replaced
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.preflight import Objection, doubtful, not_servable, objections
from pytest_comfyload.workflow.workflow import Workflow

__all__ = ["refuse_unservable"]

# Limit for a validated prompt to leave the server's queue: number of polls, and real seconds between them.
LOOKS = 300
LOOK = 0.1


async def refuse_unservable(parts: Sequence[FittedPart], run_id: str) -> tuple[str, ...]:
    """Return a note for each workflow that a server accepts although it contradicts its /object_info.

    Raises:
        WorkflowNotServable: The server rejected a workflow; the message has the nearest legal values.
        ServerError: The server did not answer.
    """
    notes: dict[str, None] = {}
    for part in parts:
        for server, object_info in part.runners:
            for workflow, graph in _prompts(part, object_info, run_id):
                found = objections(NodeGraph(graph, object_info))
                if found and _note(server, workflow, found) not in notes:
                    await _ask(server, workflow, graph, found, run_id)
                    notes[_note(server, workflow, found)] = None
    return tuple(notes)


def _prompts(part: FittedPart, object_info: ObjectInfo, run_id: str) -> Iterator[tuple[Workflow, Graph]]:
    """Yield a prompt of each workflow as it would be sent, and another for each doubtful value that may be drawn."""
    workflows = {id(workflow): workflow for by_text, _ in part.workflows for workflow in by_text}
    for workflow in workflows.values():
        graph = workflow.vary(
            random.Random(run_id),
            text=part.part.texts[0].text,
            filename_prefix=f"{OWN_KEY}/{run_id}",
        ).graph
        yield workflow, graph
        for setting in workflow.settings:
            for option in doubtful(NodeGraph(graph, object_info), setting):
                yield workflow, replaced(graph, option)


async def _ask(
    server: ServerAddress, workflow: Workflow, graph: Graph, found: Sequence[Objection], run_id: str
) -> None:
    """Send a prompt for validation. Raises: WorkflowNotServable, ServerError."""
    extra_data = {**workflow.extra_data, OWN_KEY: {"run": run_id}}
    async with unsocketed(server) as client:
        try:
            await _send_and_take_out(client, graph, extra_data)
        except PromptRejected as error:
            raise not_servable(
                workflow.name, server.url, found, refused_inputs(error.node_errors), str(error)
            ) from None


async def _send_and_take_out(client: ComfyClient, graph: Graph, extra_data: Mapping[str, Any]) -> None:
    """Submit a prompt, delete it, and wait until it has left the queue. Raises: PromptRejected, ServerError."""
    prompt_id = str(uuid.uuid4())
    await client.submit(client.expect(prompt_id, graph), graph, extra_data)
    await take_out(client, [prompt_id])
    for _ in range(LOOKS):
        queue = await client.queue()
        if prompt_id not in (*queue.running, *queue.pending):
            break
        await asyncio.sleep(LOOK)


def _note(server: ServerAddress, workflow: Workflow, found: Sequence[Objection]) -> str:
    says = "; ".join(each.sentence for each in found)
    return f"{server.url} accepts {workflow.name}, although its /object_info says otherwise: {says}"
