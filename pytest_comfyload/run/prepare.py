"""Fitting of a scenario's parts to the servers that will run them; each part becomes a group of the engine's users."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.engine.plan import Group
from pytest_comfyload.errors import HttpError, UsageError, WorkflowError
from pytest_comfyload.run.target import Target, object_info_of, unsocketed
from pytest_comfyload.scenario.extra_data import api_keys
from pytest_comfyload.workflow.image_variants import file_named, pool_size, variants
from pytest_comfyload.workflow.input_files import FOLDER, InputFile, input_files
from pytest_comfyload.workflow.object_info import ObjectInfo
from pytest_comfyload.workflow.prompts import LoadedPart, Source
from pytest_comfyload.workflow.workflow import Workflow

__all__ = ["FittedPart", "fit", "upload_missing"]


@dataclass(frozen=True, slots=True)
class FittedPart:
    """A part of a scenario, fitted to its servers.

    `workflows` has, for each workflow and its weight, a variant for each text. `files` are the input files that the
    servers must have before the load. `servers` are the places of the part's servers among those of the target.
    `runners` are these servers or the workers behind them, each with its object info for the workflows' classes.
    `guessed` are the node classes whose times a simulator guesses.
    """

    part: LoadedPart
    workflows: Sequence[tuple[Sequence[Workflow], float]]
    files: Sequence[InputFile]
    servers: tuple[int, ...]
    runners: Sequence[tuple[ServerAddress, ObjectInfo]]
    guessed: tuple[str, ...] = ()

    @property
    def node_counts(self) -> dict[str, dict[str, int]]:
        """The number of nodes of each class that a prompt executes, by workflow."""
        return {by_text[0].name: by_text[0].node_counts() for by_text, _ in self.workflows}

    def group(self, seed: str, filename_prefix: str) -> Group:
        """Return the part as a group for the engine."""
        name, scenario = self.part.name, self.part.scenario
        return Group(
            name=name,
            executor=scenario.executor,
            prompts=Source(
                workflows=self.workflows,
                texts=[text.text for text in self.part.texts],
                seed=seed if name is None else f"{seed}/{name}",
                users=scenario.executor.users,
                filename_prefix=filename_prefix,
                vary_text=scenario.vary_text,
            ),
            timeout=scenario.timeout,
            think_time=scenario.think_time,
            start=scenario.start,
            queue_timeout=scenario.queue_timeout,
            sockets=scenario.sockets,
            fetch=scenario.fetch,
            servers=self.servers,
        )


async def fit(
    part: LoadedPart, target: Target, servers: tuple[int, ...], overrides: Mapping[str, str], seed: int
) -> FittedPart:
    """Fit a part to these servers of the target, or to all of its workers; `seed` is the run's.

    Raises: ServerError, WorkflowError.
    """
    workflows = list(part.workflows)
    runners: list[tuple[ServerAddress, Mapping[str, Any]]] = []
    chosen = target.workers or [target.servers[place] for place in servers]
    guessed = () if target.time_scale is None else await _announced(part, chosen)
    keys = api_keys(os.environ)
    for server in chosen:
        told: dict[str, Any] = {}
        for number, (workflow, weight) in enumerate(workflows):
            info = await object_info_of(server, workflow)
            workflows[number] = (part.served(workflow.on(ObjectInfo(info)), overrides, server.url, keys), weight)
            told |= info
        runners.append((server, told))
    object_info = ObjectInfo({name: info for _, told in runners for name, info in told.items()})
    if part.scenario.prompts is not None and not any(workflow.text_spots for workflow, _ in workflows):
        raise WorkflowError("prompts: no workflow of the mix has a text input on the way to a text encoder")
    workflows = [(workflow.on(object_info), weight) for workflow, weight in workflows]
    files = [file for workflow, _ in workflows for file in input_files(workflow, part.local)]
    varied = await _variants(part, [workflow for workflow, _ in workflows], files, runners[0][0], f"{seed}")
    names = {picture: [file.value for file in each] for picture, each in varied.items()}
    workflows = [(replace(workflow, variants=names), weight) for workflow, weight in workflows]
    files += [file for each in varied.values() for file in each]
    by_text = [(part.for_each_text(workflow, overrides), weight) for workflow, weight in workflows]
    described = [(server, ObjectInfo(told)) for server, told in runners]
    return FittedPart(part, by_text, files, servers, described, guessed)


async def _announced(part: LoadedPart, simulators: Sequence[ServerAddress]) -> tuple[str, ...]:
    """Let simulators infer the node classes of the workflows, and return the classes whose times they guess."""
    guessed: dict[str, None] = {}
    for server in simulators:
        async with unsocketed(server) as client:
            for workflow, _ in part.workflows:
                guesses = await client.announce(workflow.graph)
                guessed |= dict.fromkeys(name for name in guesses if name in workflow.classes)
    return tuple(guessed)


async def _variants(
    part: LoadedPart,
    workflows: Sequence[Workflow],
    files: Sequence[InputFile],
    server: ServerAddress,
    seed: str,
) -> dict[str, list[InputFile]]:
    """Return variants of each picture that must differ in every prompt.

    A picture that is not among `files` is fetched from `server`.
    """
    count = pool_size(part.scenario.executor, part.scenario.warmup)
    ours = {file.value: file for file in files}
    spots = [spot for workflow in workflows for spot in workflow.pictures_to_vary().items()]
    found: dict[str, list[InputFile]] = {}
    for address, picture in spots:
        file = ours.get(picture.removesuffix(" [input]"))
        try:
            content = await (asyncio.to_thread(file.content) if file else _fetched(server, picture))
            found[picture] = await asyncio.to_thread(variants, picture, content, count, f"{part.name}", seed)
        except (UsageError, HttpError) as error:
            raise WorkflowError(
                f"must_run: {address} = {picture!r} cannot be varied: {error}; give another picture, or values to "
                f"draw: inputs={{{address!r}: [..., ...]}}"
            ) from None
    return found


async def _fetched(server: ServerAddress, picture: str) -> bytes:
    async with unsocketed(server) as client:
        return await client.fetch(file_named(picture))


async def upload_missing(servers: Iterable[ServerAddress], files: Sequence[InputFile]) -> None:
    """Upload the files that the servers do not have yet. Raises: ServerError."""
    await asyncio.gather(*(_upload_to(server, files) for server in servers if files))


async def _upload_to(server: ServerAddress, files: Sequence[InputFile]) -> None:
    client = ComfyClient(server)
    try:
        for file in files:
            if not (file.lasting and await client.has_input(file.name, FOLDER)):
                await client.upload_input(file.name, await asyncio.to_thread(file.content), FOLDER)
    finally:
        await client.aclose()
