"""Checks of what users reach: exposure, load balancing, buffering of a burst, and the rate limit."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias
from urllib.parse import urlsplit

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.comfy import ComfyClient
from pytest_comfyload.client.transport import Transport
from pytest_comfyload.deploy.examined import Deployment, Finding, cannot_tell, failed, passed, send_tiny
from pytest_comfyload.deploy.stack import COOKIE
from pytest_comfyload.errors import HttpError, ServerError
from pytest_comfyload.image_containers import PictureError
from pytest_comfyload.image_files import decoding
from pytest_comfyload.protocol.bodies import parse_rejection
from pytest_comfyload.protocol.json_values import as_list
from pytest_comfyload.protocol.outputs import output_files
from pytest_comfyload.run.target import unsocketed

__all__ = ["check_balancer", "check_buffering", "check_exposure", "check_rate_limit"]

# Users of the balancer check: minimum, per worker (so that none is left out by chance), and maximum.
LEAST_USERS, USERS_PER_WORKER, MOST_USERS = 12, 12, 128
# Prompts in a burst, per worker.
BURST = 4
# Seconds to wait for all tiny prompts of a check, and for one that exceeds a limit to be accepted.
PATIENCE, LIMITED = 120.0, 60.0
# Maximum number of prompts without a workflow that one user sends; a rate limit must refuse one of them.
MOST_SENT = 300


# Faults of a user whose requests reach a worker that did not execute the prompt.
NO_HISTORY, NO_EVENTS, NOTHING = "no history", "no events", "no events and no history"
OTHER_PICTURE = "another user's picture"
MISDIRECTED = {NO_HISTORY, NO_EVENTS, NOTHING, OTHER_PICTURE, "GET /view answered 404"}

# Status, headers with lower-case names, and body.
Answer: TypeAlias = tuple[int, Mapping[str, str], bytes]


@dataclass(frozen=True, slots=True)
class Visit:
    """What one user received for a prompt; `fault` is empty if everything was right."""

    prompt_id: str = ""
    fault: str = ""
    limited: bool = False


def as_browser(front: ServerAddress) -> ServerAddress:
    """Return the address as a browser uses it, for balancers that set their cookie only with a page."""
    return replace(front, headers={"Accept": "text/html, */*", **front.headers})


async def check_balancer(deployment: Deployment) -> Finding:
    """Check that users are spread over the workers, and get the right events, history and images."""
    await _answers(deployment.front)
    wanted = max(LEAST_USERS, USERS_PER_WORKER * len(deployment.workers))
    visits = await asyncio.gather(*(_visit(deployment.front, 16 + n) for n in range(min(MOST_USERS, wanted))))
    if bad := [visit.fault for visit in visits if visit.fault]:
        kinds = "; ".join(f"{count} × {fault}" for fault, count in Counter(bad).most_common(4))
        return failed(
            f"{len(bad)} of {len(visits)} users: {kinds}",
            "send all requests of a user to one worker, by a cookie, else Authorization, else the address (not by "
            "client_id: /history and /view carry none), and upgrade WebSockets; or use `comfyload gateway`",
        )
    right = f"events, history and pictures right for {len(visits)} of {len(visits)} users"
    if not deployment.workers:
        return cannot_tell(f"{right}; the spread is not known", "name each worker with --worker")
    shares = await _shares(deployment.workers, [visit.prompt_id for visit in visits])
    spread = ", ".join(f"{url}: {count}" for url, count in shares.items())
    if sum(shares.values()) < len(visits):
        return cannot_tell(f"{right}; of their prompts the workers know {spread}", "name all workers with --worker")
    if idle := [url for url, count in shares.items() if not count]:
        return failed(
            f"{right}, but none was sent to {', '.join(idle)} ({spread})",
            "check that the balancer reaches every worker, and that its key is not the address of another proxy",
        )
    return passed(f"{right}; {spread}")


async def _answers(front: ServerAddress) -> None:
    """Check that something answers at all, so that a finding is about the check. Raises: ServerError."""
    async with unsocketed(front) as client:
        await client.queue_remaining()


async def _visit(front: ServerAddress, width: int) -> Visit:
    """Act as one user: send a prompt, wait for its events, check its history and its image, known by its width."""
    try:
        async with asyncio.timeout(PATIENCE), ComfyClient(as_browser(front)) as client:
            prompt_id, limited = await _sent(client, width)
            state = next(each for each in client.on_their_way if each.prompt_id == prompt_id)
            heard = await _is_heard(client, prompt_id)
            entry = await client.history(prompt_id)
            if entry is None:
                return Visit(prompt_id, NO_HISTORY if heard else NOTHING, limited)
            if not heard:
                return Visit(prompt_id, NO_EVENTS, limited)
            files = output_files(entry.outputs or state.outputs)
            if not files:
                return Visit(prompt_id, "no picture in the history", limited)
            content = await client.fetch(files[0])
            with decoding(content, "PNG") as picture:
                return Visit(prompt_id, "" if picture.size == (width, 16) else OTHER_PICTURE, limited)
    except TimeoutError:
        return Visit(fault=f"not done within {PATIENCE:g} s")
    except PictureError as error:
        return Visit(fault=f"a damaged picture ({error})")
    except ServerError as error:
        return Visit(fault=str(error).removeprefix(f"{front.url}: "))


async def _sent(client: ComfyClient, width: int) -> tuple[str, bool]:
    """Send a tiny prompt; return its id, and whether a limit delayed it. Raises: ServerError."""
    loop = asyncio.get_running_loop()
    deadline, limited = loop.time() + LIMITED, False
    while True:
        try:
            return await send_tiny(client, width), limited
        except HttpError as error:
            if error.status != 429 or loop.time() > deadline:
                raise
            limited = True
            await asyncio.sleep(1.0)


async def _is_heard(client: ComfyClient, prompt_id: str) -> bool:
    """Wait for a prompt's last event; return False if the server ended it long ago, and no event arrived."""
    state = next(each for each in client.on_their_way if each.prompt_id == prompt_id)
    ended = 0
    while not state.stage.over:
        await asyncio.sleep(0.1)
        # This queries the worker that the user reaches, which may not be the one that runs the prompt.
        ended += await client.history(prompt_id) is not None or not await client.queue_remaining()
        if ended > 10 and not state.stage.over:
            return False
    return True


async def _shares(workers: Sequence[ServerAddress], prompt_ids: Sequence[str]) -> Mapping[str, int]:
    """Return the number of these prompts in each worker's history. Raises: ServerError."""
    shares: dict[str, int] = {}
    for worker in workers:
        async with unsocketed(worker) as client:
            shares[worker.url] = sum([await client.history(each) is not None for each in prompt_ids])
    return shares


async def check_buffering(deployment: Deployment) -> Finding:
    """Check that a burst of prompts is queued: none is refused, and all end."""
    await _answers(deployment.front)
    count = BURST * max(1, len(deployment.workers))
    visits = await asyncio.gather(*(_visit(deployment.front, 16 + number) for number in range(count)))
    bad = Counter(visit.fault for visit in visits if visit.fault)
    kinds = "; ".join(f"{times} × {fault}" for fault, times in bad.most_common(4))
    if bad.keys() - MISDIRECTED:
        return failed(
            f"of {count} prompts at once, {sum(bad.values())} did not end: {kinds}",
            "let prompts wait: raise the balancer's limits and timeouts, or put `comfyload gateway` before the workers",
        )
    if bad:
        return cannot_tell(f"{count} prompts at once: none was refused, but {kinds}", "see the check `balancer`")
    limited = sum(visit.limited for visit in visits)
    waited = f", {limited} of them after a 429 and a pause" if limited else ""
    return passed(f"{count} prompts at once: all were accepted and ended{waited}")


async def check_rate_limit(deployment: Deployment) -> Finding:
    """Check that a user with too many prompts gets 429, and that other users do not."""
    flooder, other = f"doctor-{secrets.token_hex(8)}", f"doctor-{secrets.token_hex(8)}"
    sent = 0
    answer: Answer = (0, {}, b"")
    async with _sender(deployment.front, flooder) as send, _sender(deployment.front, other) as send_as_other:
        while sent < MOST_SENT and answer[0] != 429:
            # Without a workflow, the prompt is refused at once, and uses no GPU.
            answer = await send.raw("POST", "/prompt", b"{}")
            sent += 1
            if answer[0] not in (400, 429):
                return cannot_tell(
                    f"POST /prompt of {{}} answered {answer[0]}",
                    "ComfyUI answers 400; check the proxies in front of it",
                )
        others = await send_as_other.raw("POST", "/prompt", b"{}")
    if answer[0] != 429:
        return failed(
            f"{sent} prompts of one user in a row, and no 429",
            "limit POST /prompt and /api/prompt by user and address: limit_req of nginx, as `comfyload deploy` has it",
        )
    if others[0] == 429:
        if "authorization" in {name.lower() for name in deployment.front.headers}:
            return cannot_tell(
                f"429 after {sent} prompts; whether other users are limited with it is not known",
                "repeat it with another user's password: --comfyui-header-file",
            )
        return failed(
            f"429 after {sent} prompts, and then for a second user of the same address, too",
            "limit by user first (cookie, else Authorization), with a larger limit by address",
        )
    shape = "" if _is_comfyui_shaped(answer[2]) else "; its body is not in ComfyUI's format, so clients cannot show it"
    wait = answer[1].get("retry-after", "not given")
    return passed(f"429 after {sent} prompts, Retry-After {wait}{shape}; a second user is not limited")


@contextlib.asynccontextmanager
async def _sender(front: ServerAddress, user: str) -> AsyncIterator[Transport]:
    """Yield a transport that acts as one user: by cookie and, unless there is a password, by Authorization."""
    identity = {"Cookie": f"{COOKIE}={user}", "Authorization": f"Bearer {user}"}
    transport = Transport(replace(front, headers={**identity, **front.headers}))
    try:
        yield transport
    finally:
        await transport.aclose()


def _is_comfyui_shaped(body: bytes) -> bool:
    with contextlib.suppress(ValueError):
        rejection = parse_rejection(json.loads(body))
        return rejection is not None and bool(rejection.message)
    return False


async def check_exposure(deployment: Deployment) -> Finding:
    """Check that ComfyUI cannot be reached without a password, or past the balancer."""
    close = "publish nginx alone, on 127.0.0.1 or with a password (comfyload deploy --domain NAME)"
    if deployment.stack is not None:
        published = {
            name: [deployment.stack.filled(port) for port in as_list(service.get("ports"))]
            for name, service in deployment.stack.services.items()
            if service.get("ports") or service.get("network_mode") == "host"
        }
        if len(published) > 1:
            return failed(f"{', '.join(published)} are published: users can reach them past the balancer", close)
        ports = [port for each in published.values() for port in each]
        if ports and all(port.startswith(("127.0.0.1:", "[::1]:")) for port in ports):
            return passed(f"declared: only {next(iter(published))} is published, on the loopback address")
    bare = ServerAddress(deployment.front.url)
    status = await _status(bare, "/system_stats")
    if status in (401, 403) or 300 <= status < 400:
        return passed(f"without a password {bare.url} answers {status}")
    if _is_own(bare.url) and deployment.stack is None:
        return cannot_tell(
            f"{bare.url} answers without a password; whether others reach it cannot be seen from this machine",
            "give --stack, or the URL that users use",
        )
    return failed(f"{bare.url} answers {status} without a password: anyone who reaches it can run prompts", close)


async def _status(server: ServerAddress, path: str) -> int:
    """Return the status of a GET request. Raises: ServerError."""
    transport = Transport(server)
    try:
        return (await transport.raw("GET", path))[0]
    finally:
        await transport.aclose()


def _is_own(url: str) -> bool:
    """Return whether a URL is on this machine's loopback interface."""
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
