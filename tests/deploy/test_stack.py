"""The values of a stack: which are valid, and one clear line for each that is not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.deploy.stack import MOST_GPUS, Stack, parse_addresses
from pytest_comfyload.errors import UsageError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gpus": 0}, "--gpus 0 is not supported; give a whole number from 1 to 64"),
        ({"gpus": 65}, "--gpus 65 is not supported; give a whole number from 1 to 64"),
        ({"rate": 0}, "--rate 0 is not supported; give a whole number from 1 to 100000"),
        ({"upload": -1}, "--upload -1 is not supported; give a whole number from 1 to 10000"),
        ({"domain": "localhost"}, "--domain 'localhost' is not a domain name; give one such as comfy.example.org"),
        ({"domain": "a.org;}"}, "--domain 'a.org;}' is not a domain name; give one such as comfy.example.org"),
        (
            {"addresses": {"worker-1": "gpu:1"}},
            "--address worker-1=…: there is no such service; choose one of: worker-0, monitor, prometheus, "
            "alertmanager, grafana, nginx",
        ),
        (
            {"addresses": {"worker-0": "gpu:0"}},
            "--address worker-0=gpu:0: write HOST:PORT, with a port from 1 to 65535",
        ),
        (
            {"addresses": {"worker-0": "gpu;:1"}},
            "--address worker-0=gpu;:1: write HOST:PORT, with a port from 1 to 65535",
        ),
    ],
)
def test_a_bad_value_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Stack(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["gpu2.lan:8188"], "--address 'gpu2.lan:8188': write NAME=HOST:PORT, such as worker-1=gpu2.lan:8188"),
        (["redis=a:1", "redis=b:1"], "--address redis is given twice; give each service one address"),
    ],
)
def test_a_bad_address_is_one_line(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_addresses(texts)
    assert str(caught.value) == message


@given(
    gpus=st.integers(1, MOST_GPUS),
    queue=st.booleans(),
    domain=st.sampled_from(["", "a.org"]),
    rate=st.integers(1, 6000),
)
def test_services_have_addresses_of_their_own(gpus: int, queue: bool, domain: str, rate: int) -> None:
    stack = Stack(gpus=gpus, queue=queue, domain=domain, rate=rate)
    assert len({service.address for service in stack.services.values()}) == len(stack.services)
    assert [worker.gpu for worker in stack.workers] == list(range(gpus))
    assert len(stack.fronted) == (1 if queue else gpus)
    # After this wait, a user may send another prompt.
    assert stack.retry_after * stack.rate >= 60
