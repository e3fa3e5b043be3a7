"""A virtual user, who sends a prompt, tracks it to its end and fetches its outputs. Every result is an outcome."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Sequence

from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.client.outputs import DecodingSample
from pytest_comfyload.client.response_body import Memory
from pytest_comfyload.engine.attempt import Attempt, kind_of, listed, look_at
from pytest_comfyload.engine.observers import CutShort
from pytest_comfyload.engine.plan import Group, Prompt, Show
from pytest_comfyload.engine.servers import Balancer, Server
from pytest_comfyload.engine.tracker import CLOSING_TIME, PromptTracker, read_history
from pytest_comfyload.errors import ComfyloadError, Disconnected, ResponseTooLarge, ServerError, ServerTimeout
from pytest_comfyload.image_files import in_picture_thread, is_tiny
from pytest_comfyload.metrics.units import format_value
from pytest_comfyload.protocol.outputs import OutputFile, output_files
from pytest_comfyload.protocol.prompt_state import MAX_PICTURE_BYTES, MAX_PICTURES, Stage
from pytest_comfyload.result.outcome import Outcome, OutcomeStatus
from pytest_comfyload.result.output_files import SOCKET, FetchedFile
from pytest_comfyload.scenario.extra_data import OWN_KEY

__all__ = ["User"]

# Real seconds before a user retries after a failed connection, so as not to hammer an unreachable server.
RETRY_PAUSE = 1.0
# Real seconds for requests after a prompt's end: for its history, or its removal from the queue.
BOOKKEEPING_TIME = 5.0
# Real seconds that are left for these requests once the run is cancelled.
CUT_SHORT_TIME = 1.0
# Number of outputs of one prompt that are downloaded at the same time, as browsers do from one server.
PARALLEL_DOWNLOADS = 6
# Largest number of outputs of one prompt; a video saved as pictures has several hundred.
MAX_OUTPUTS = 1000
# Largest number of outputs of one prompt that are inspected without a thread, if they are tiny.
FEW_OUTPUTS = 4
# Number of nodes that an error message names at most.
MOST_NAMED = 10
# Statuses after which the server may still have the prompt.
_GIVEN_UP = (OutcomeStatus.TIMEOUT, OutcomeStatus.CONNECTION, OutcomeStatus.HTTP_ERROR)


class User:
    """A user who runs prompts one at a time. `settle()` waits for the bookkeeping, which never delays the next prompt.

    Args:
        index: The number of the user.
        group: The group of the user.
        clients: The user's client for each server.
        servers: The servers to choose from.
        balancer: Chooses the server of each prompt.
        run_id: The id of the run, with which prompts are tagged.
        report: Called with each outcome.
        memory: The memory budget for the outputs of all users.
        sample: Decides which pictures of all users are decoded.
        cut_short: Set when the run is cancelled: outputs are no longer decoded, and bookkeeping ends soon.
        show: Called with each outcome and the bytes of its files.
    """

    def __init__(
        self,
        index: int,
        group: Group,
        clients: Sequence[ComfyClient],
        servers: Sequence[Server],
        balancer: Balancer,
        run_id: str,
        report: Callable[[Outcome], None],
        memory: Memory,
        sample: DecodingSample,
        cut_short: CutShort,
        show: Show | None = None,
    ) -> None:
        self.index = index
        self.group = group
        self.clients = clients
        self._servers = servers
        self._balancer = balancer
        self._tag = {OWN_KEY: {"run": run_id}}
        self._report = report
        self._memory = memory
        self._sample = sample
        self._cut_short = cut_short
        self._show = show
        self._bookkeeping: set[asyncio.Task[None]] = set()
        # The worker that ran the last prompt, since most balancers keep a user at the same worker.
        self._worker: str | None = None

    async def run(self, prompt: Prompt, iteration: int, intended: float, *, stage: int | None = None) -> float:
        """Run one prompt until its outputs are fetched or it has failed, and return the time (run's clock)."""
        number = self._balancer.choose(self.index)
        client = self.clients[number]
        pending = client.expect(str(uuid.uuid4()), prompt.graph)
        attempt = Attempt(
            prompt,
            pending,
            client,
            self.index,
            self.group.name,
            stage,
            iteration,
            intended,
            memory=self._memory.share(),
        )
        try:
            await self._live(attempt, self._servers[number])
        except asyncio.CancelledError:
            attempt.fail(OutcomeStatus.CENSORED, "cut off: the run ended before the prompt did")
            raise
        except ComfyloadError as error:
            attempt.fail(kind_of(error), str(error))
        finally:
            self._keep_books(attempt, self._servers[number])
        await self._recover(client, attempt.status)
        return client.clock.now()

    async def _recover(self, client: ComfyClient, status: OutcomeStatus) -> None:
        """Replace a lost socket before the next prompt is due, which would be sent late otherwise."""
        if status is OutcomeStatus.CONNECTION:
            await asyncio.sleep(RETRY_PAUSE)
        with contextlib.suppress(ServerError):
            await client.reopen()

    async def settle(self) -> None:
        if self._bookkeeping:
            await asyncio.gather(*self._bookkeeping)

    async def _live(self, attempt: Attempt, server: Server) -> None:
        client, group = attempt.client, self.group
        await client.reopen()
        # The client may have another id by the time the outcome is created.
        attempt.client_id = client.client_id
        server.submit(attempt.state.prompt_id)
        extra_data = {**attempt.prompt.extra_data, **self._tag}
        answer = await server.post(client.submit(attempt.pending, attempt.prompt.graph, extra_data))
        await PromptTracker(client, server, attempt.pending, group.timeout, group.queue_timeout).follow()
        attempt.judge_end()
        if answer.node_errors and attempt.status is OutcomeStatus.SUCCESS:
            attempt.fail(OutcomeStatus.PARTIAL, _dropped(list(answer.node_errors)))
        if attempt.state.stage is Stage.SUCCEEDED:
            await self._fetch(attempt)

    async def _fetch(self, attempt: Attempt) -> None:
        """Fetch the outputs, or with fetch=False only their names.

        Raises: ServerError; ServerTimeout if all outputs together take longer than `timeout`.
        """
        client, files = attempt.client, output_files(attempt.state.outputs)
        _expect_few(attempt, len(files) if self.group.fetch else 0)
        contents: dict[OutputFile, bytes] = {}
        try:
            async with asyncio.timeout(client.patience):
                await self._download(attempt, files if self.group.fetch else (), contents)
        except TimeoutError:
            raise ServerTimeout(
                f"{client.address.url}: the outputs were not downloaded within "
                f"{format_value(client.patience, 's')} (timeout=)"
            ) from None
        finally:
            attempt.contents += [(file, contents.get(file)) for file in files]
        for number, (node, picture) in enumerate(attempt.state.pictures, 1):
            file = OutputFile(node, "images", f"{node}_{number}.png", "", SOCKET)
            attempt.contents.append((file, picture if self.group.fetch else None))
            attempt.memory.take(len(picture), client.address.url)
        attempt.fetched = client.clock.now()

    async def _download(self, attempt: Attempt, files: Sequence[OutputFile], contents: dict[OutputFile, bytes]) -> None:
        """Download the files into `contents`; the first failure cancels the others. Raises: ServerError."""
        waiting = iter(files)

        async def download() -> None:
            for file in waiting:
                contents[file] = await attempt.client.fetch(file, attempt.memory)

        if len(files) <= 1:
            # Most prompts have one output, which needs no task of its own.
            await download()
            return
        downloads = [asyncio.create_task(download()) for _ in files[:PARALLEL_DOWNLOADS]]
        try:
            await asyncio.gather(*downloads)
        finally:
            for each in downloads:
                each.cancel()
            await asyncio.gather(*downloads, return_exceptions=True)

    # --- after the user has received the outputs ---

    def _keep_books(self, attempt: Attempt, server: Server) -> None:
        # A cancelled prompt stays outstanding, so that the engine removes it from the server.
        if attempt.status is not OutcomeStatus.CENSORED:
            server.outstanding.discard(attempt.state.prompt_id)
        task = asyncio.create_task(self._close(attempt, server))
        self._bookkeeping.add(task)
        task.add_done_callback(self._bookkeeping.discard)

    async def _close(self, attempt: Attempt, server: Server) -> None:
        with contextlib.suppress(ServerError, TimeoutError):
            async with asyncio.timeout(BOOKKEEPING_TIME):
                await self._cut_short.limit(self._reconcile(attempt, server), CUT_SHORT_TIME)
        attempt.client.forget(attempt.state.prompt_id)
        try:
            await self._hand_over(attempt)
        finally:
            attempt.memory.release()

    async def _hand_over(self, attempt: Attempt) -> None:
        """Inspect the outputs, and report the outcome."""
        looked: tuple[tuple[FetchedFile, ...], list[str]] | None
        contents, key = attempt.contents, f"{attempt.user} {attempt.iteration}"
        if len(contents) <= FEW_OUTPUTS and all(content is None or is_tiny(content) for _, content in contents):
            looked = look_at(contents, self._sample, key)
        else:
            looked = await self._cut_short.limit(in_picture_thread(look_at, contents, self._sample, key))
        files, faults = (listed(attempt.contents), []) if looked is None else looked
        if faults and attempt.status is OutcomeStatus.SUCCESS:
            attempt.fail(OutcomeStatus.BAD_OUTPUT, "; ".join(faults))
        outcome = attempt.outcome(files)
        self._report(outcome)
        if self._show is not None:
            await self._cut_short.limit(self._show(outcome, attempt.contents))

    async def _reconcile(self, attempt: Attempt, server: Server) -> None:
        """Read the history of a prompt that is over, or remove one that was given up. Raises: ServerError."""
        state, client = attempt.state, attempt.client
        if state.stage.over:
            with contextlib.suppress(Disconnected):
                await attempt.pending.wait_until(lambda state: state.closed, CLOSING_TIME)
            await self._read_history(attempt, server)
        elif attempt.status in _GIVEN_UP and state.sent_at is not None:
            # Workers first, as they may answer even if the server does not.
            await server.workers.take_out([state.prompt_id])
            await client.delete_pending([state.prompt_id])
            await client.interrupt(state.prompt_id)

    async def _read_history(self, attempt: Attempt, server: Server) -> None:
        """Read the history of the worker that ran the prompt, or else of the server. Raises: ServerError."""
        state, client = attempt.state, attempt.client
        found = await server.workers.find(state.prompt_id, self._worker)
        if found is None:
            await read_history(client, server, state)
            return
        self._worker = found.url
        attempt.ran_at(found.url, server.workers.clocks[found.url])
        state.apply_history(found.entry, client.clock.now())


def _expect_few(attempt: Attempt, downloads: int) -> None:
    """Check the number of outputs. Raises: ResponseTooLarge."""
    url, state = attempt.client.address.url, attempt.state
    if downloads > MAX_OUTPUTS:
        raise ResponseTooLarge(
            f"{url}: the prompt has {downloads} outputs, and at most {MAX_OUTPUTS} are downloaded; "
            "fetch=False downloads none"
        )
    if state.dropped_pictures:
        raise ResponseTooLarge(
            f"{url}: {state.dropped_pictures} pictures that came over the WebSocket were dropped; "
            f"at most {MAX_PICTURES}, of {MAX_PICTURE_BYTES >> 20} MiB together, are kept"
        )


def _dropped(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - MOST_NAMED} more" if len(nodes) > MOST_NAMED else ""
    return f"the server dropped outputs of nodes {', '.join(nodes[:MOST_NAMED])}{more}"
