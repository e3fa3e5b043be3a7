"""The rendered nginx.conf in the real nginx, in front of simulators: routing, limits, and what is closed to users."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.deploy.examined import Deployment
from pytest_comfyload.deploy.front_checks import check_balancer, check_buffering, check_exposure, check_rate_limit
from pytest_comfyload.deploy.stack import COOKIE
from pytest_comfyload.launch.simulator import SimulatorProcess
from pytest_comfyload.run.load_run import LoadRun, run_load
from pytest_comfyload.scenario.scenario import Scenario
from tests.deploy.front import nginx, rendered, rendered_queue
from tests.deploy.users import check_limits, check_received, receive
from tests.run.balancer import Balancer

ADDRESS = ServerAddress.parse


@pytest.fixture(scope="module")
def workers() -> Iterator[list[str]]:
    with SimulatorProcess(time_scale=50, seed=1) as one, SimulatorProcess(time_scale=50, seed=2) as two:
        yield [one.url, two.url]


@pytest.fixture(scope="module")
def front(workers: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a front that lets 100 prompts per second through."""
    folder = tmp_path_factory.mktemp("stack")
    with nginx(folder, rendered(folder, workers)) as url:
        yield url


def ask(
    url: str,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Return the status, headers and body of the response."""
    request = urllib.request.Request(url, content, dict(headers or {}))
    opener = urllib.request.build_opener(
        _NoRedirect, urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        answer: HTTPResponse = opener.open(request, timeout=20)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()
    with answer:
        return answer.status, dict(answer.headers), answer.read()


def basic(password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(password.encode()).decode()}"}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


# --- each user stays on one worker ------------------------------------------------------------------------------------


def test_twelve_users_get_their_events_history_and_pictures(front: str, workers: list[str]) -> None:
    found = asyncio.run(check_balancer(Deployment(front=ADDRESS(front), workers=[ADDRESS(url) for url in workers])))
    assert found.status == "pass", found
    assert "right for 24 of 24 users" in found.evidence
    assert all(url in found.evidence for url in workers)


def test_twelve_users_receive_exactly_what_is_theirs(front: str, workers: list[str]) -> None:
    asyncio.run(_received(front, 1, workers[0], private=False))


async def _received(front: str, series: int, worker: str, *, private: bool) -> None:
    await check_received(await receive(front, series), worker, private=private)


def test_users_are_told_apart_by_authorization_too(front: str, workers: list[str]) -> None:
    """For programs, which keep no cookies: each name goes to one worker, and the names are spread over both."""
    seen = {name: {_worker_of(front, workers, f"Bearer {name}") for _ in range(2)} for name in map(str, range(30))}
    assert all(len(urls) == 1 for urls in seen.values())
    assert set().union(*seen.values()) == set(workers)


def _worker_of(front: str, workers: list[str], authorization: str) -> str:
    """Return the worker that a request of this user reaches: the one that then has the prompt."""
    size = {"width": 8, "height": 8, "batch_size": 1, "color": time.monotonic_ns() % 2**24}
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    _, _, body = ask(f"{front}/prompt", json.dumps({"prompt": graph}).encode(), {"Authorization": authorization})
    prompt_id = json.loads(body)["prompt_id"]
    while True:
        for url in workers:
            if prompt_id in json.loads(ask(f"{url}/history/{prompt_id}")[2]):
                return url


def test_only_pages_bring_the_cookie(front: str) -> None:
    """A program that received it between two requests would be moved to another worker in the middle of its work."""
    page = ask(front, headers={"Accept": "text/html,application/xhtml+xml"})[1]
    assert page["Set-Cookie"].startswith(f"{COOKIE}=")
    assert "HttpOnly" in page["Set-Cookie"]
    assert "Set-Cookie" not in ask(f"{front}/prompt", headers={"Accept": "*/*"})[1]
    assert "Set-Cookie" not in ask(front, headers={"Accept": "text/html", "Cookie": f"{COOKIE}=mine"})[1]


def test_round_robin_is_found_to_be_wrong(workers: list[str]) -> None:
    with Balancer(workers, sticky=False) as balancer:
        deployment = Deployment(front=ADDRESS(balancer.url), workers=list(map(ADDRESS, workers)))
        found, buffered = asyncio.run(check_balancer(deployment)), asyncio.run(check_buffering(deployment))
    assert found.status == "fail"
    assert "of 24 users: " in found.evidence
    assert "send all requests of a user to one worker" in found.remedy
    # It refuses nothing; that users do not see their pictures is found by another check.
    assert (buffered.status, buffered.remedy) == ("cannot tell", "see the check `balancer`")


def test_a_worker_that_gets_no_user_is_found(workers: list[str]) -> None:
    found = asyncio.run(check_balancer(Deployment(front=ADDRESS(workers[0]), workers=list(map(ADDRESS, workers)))))
    assert found.status == "fail"
    assert f"but none was sent to {workers[1]}" in found.evidence


def test_a_load_passes_through_it(front: str, workers: list[str], tmp_path: Path) -> None:
    scenario = Scenario.build_in(tmp_path, "txt2img", users=6, iterations=3, seed=1, max_send_lag="30s")
    browsers = ServerAddress.parse(front, {"Accept": "text/html"})
    load = run_load(
        LoadRun(scenario, (browsers,), "front", tmp_path, tmp_path, workers=tuple(map(ADDRESS, workers)), private=True)
    )
    assert load.success_rate == 100
    of_users = {(each.user, each.worker) for each in load.outcomes}
    assert len(of_users) == 6, "each user stays on one worker"
    assert {worker for _, worker in of_users} <= set(workers)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_user_over_the_limit_gets_comfyuis_429_and_nothing_else_is_limited(
    workers: list[str], tmp_path: Path
) -> None:
    stack = rendered(tmp_path, workers, rate=1)
    with nginx(tmp_path, stack) as url:
        mine = {"Cookie": f"{COOKIE}=mine"}
        # ComfyUI refuses these with 400; the limit is one a minute on top of the burst, so timing does not matter.
        answers = [ask(f"{url}{path}", b"{}", mine) for path in ("/prompt", "/api/prompt") * (stack.burst + 2)]
        statuses = [status for status, _, _ in answers]
        assert statuses == [400] * (stack.burst + 1) + [429] * (len(answers) - stack.burst - 1)
        _, headers, body = answers[-1]
        assert headers["Retry-After"] == "60"
        assert headers["Content-Type"] == "application/json"
        error = json.loads(body)
        assert error["error"]["type"] == "too_many_prompts"
        assert error["node_errors"] == {}
        # Requests other than POST /prompt.
        assert {
            ask(f"{url}{path}", headers=mine)[0] for path in ("/prompt", "/queue", "/history", "/system_stats") * 20
        } == {200}
        assert ask(f"{url}/queue", b'{"delete": []}', mine)[0] == 200
        # Other users, until their address has sent ten times as many; it is allowed some more each minute.
        others = [
            ask(f"{url}/prompt", b"{}", {"Cookie": f"{COOKIE}=other{n}"})[0] for n in range(10 * stack.burst + 40)
        ]
        accepted = 10 * stack.burst + 1 - (stack.burst + 1)
        assert others[:accepted] == [400] * accepted
        assert others[-1] == 429


def test_prompts_alone_are_limited_and_those_of_one_user(workers: list[str], tmp_path: Path) -> None:
    stack = rendered(tmp_path, workers, rate=1)
    with nginx(tmp_path, stack) as url:
        asyncio.run(check_limits(url, 2, stack.burst + 1, "too_many_prompts"))


def test_the_doctor_finds_the_limit_and_its_absence(workers: list[str], tmp_path: Path) -> None:
    with nginx(tmp_path, rendered(tmp_path, workers, rate=1)) as url:
        found = asyncio.run(check_rate_limit(Deployment(front=ADDRESS(url))))
    assert found.status == "pass"
    assert found.evidence == "429 after 10 prompts, Retry-After 60; a second user is not limited"
    found = asyncio.run(check_rate_limit(Deployment(front=ADDRESS(workers[0]))))
    assert found.status == "fail"
    assert found.evidence == "300 prompts of one user in a row, and no 429"
    assert "limit POST /prompt and /api/prompt by user and address" in found.remedy


def test_a_burst_waits_its_turn(front: str, workers: list[str]) -> None:
    found = asyncio.run(check_buffering(Deployment(front=ADDRESS(front), workers=list(map(ADDRESS, workers)))))
    assert found.status == "pass", found
    assert found.evidence == "8 prompts at once: all were accepted and ended"


def test_large_requests_are_refused_as_comfyui_would(front: str) -> None:
    status, _, body = ask(f"{front}/prompt", b"x" * 1_100_000)
    assert status == 413
    assert json.loads(body)["error"]["details"] == "at most 1 MB"
    assert ask(f"{front}/prompt", b"{}" + b" " * 900_000)[0] == 400


@pytest.mark.parametrize(
    "path", ["/internal/logs/raw", "/api/internal/logs", "/metrics", "/customnode/installed", "/%69nternal/logs/raw"]
)
def test_what_is_not_for_users_is_closed(front: str, path: str) -> None:
    assert ask(f"{front}{path}")[0] == 403


# --- with a queue ----------------------------------------------------------------------------------------------------


def test_behind_a_queue_users_get_theirs_too(workers: list[str], tmp_path: Path) -> None:
    stack = rendered(tmp_path, workers, rate=60, queue=True)
    with rendered_queue(tmp_path, stack), nginx(tmp_path, stack) as url:
        deployment = Deployment(front=ADDRESS(url), workers=list(map(ADDRESS, workers)))
        balanced = asyncio.run(check_balancer(deployment))
        assert balanced.status == "pass", balanced
        buffered = asyncio.run(check_buffering(deployment))
        assert buffered.status == "pass", buffered
        limited = asyncio.run(check_rate_limit(deployment))
        assert limited.status == "pass", limited
        assert ask(f"{url}/metrics")[0] == 403
        # The page comes from a worker; the routes that would show other users' prompts are closed.
        assert ask(url)[2] == ask(workers[0])[2]
        assert ask(workers[0] + "/api/jobs")[0] == 200
        assert ask(f"{url}/api/jobs")[0] == 404
        assert ask(url, b"{}")[0] == 403
        assert ask(f"{url}/simulator/workflow.json", b"{}")[0] == 404


def test_behind_a_queue_users_receive_exactly_what_is_theirs(workers: list[str], tmp_path: Path) -> None:
    stack = rendered(tmp_path, workers, queue=True)
    with rendered_queue(tmp_path, stack), nginx(tmp_path, stack) as url:
        asyncio.run(_received(url, 3, workers[0], private=True))


def test_behind_a_queue_prompts_alone_are_limited(workers: list[str], tmp_path: Path) -> None:
    stack = rendered(tmp_path, workers, rate=1, queue=True)
    with rendered_queue(tmp_path, stack), nginx(tmp_path, stack) as url:
        asyncio.run(check_limits(url, 4, stack.burst + 1, "too_many_prompts"))


# --- with a domain ----------------------------------------------------------------------------------------------------


def test_a_domain_has_tls_and_a_password(workers: list[str], tmp_path: Path) -> None:
    stack = rendered(tmp_path, workers, domain="comfy.example.org", rate=1)
    any_certificate = ssl._create_unverified_context()
    with nginx(tmp_path, stack) as plain:
        secure = f"https://{stack.services['nginx-tls'].address}"
        status, headers, _ = ask(f"{plain}/prompt?a=1")
        assert (status, headers["Location"]) == (301, "https://comfy.example.org/prompt?a=1")
        assert ask(f"{secure}/system_stats", context=any_certificate)[0] == 401
        ada = basic("ada:word")
        status, headers, _ = ask(f"{secure}/system_stats", headers=ada, context=any_certificate)
        assert status == 200
        assert "max-age" in headers["Strict-Transport-Security"]
        # A wrong password does not use up the limit of the right one.
        wrong = basic("ada:other")
        tries = [ask(f"{secure}/prompt", b"{}", wrong, any_certificate)[0] for _ in range(15)]
        assert set(tries) == {401, 429}
        assert ask(f"{secure}/prompt", b"{}", ada, any_certificate)[0] == 400
        found = asyncio.run(check_exposure(Deployment(front=ADDRESS(plain))))
        assert (found.status, found.evidence) == ("pass", f"without a password {plain} answers 301")
