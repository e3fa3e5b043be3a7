from __future__ import annotations

import pytest

from pytest_comfyload.cli.gateway import gateway
from pytest_comfyload.errors import UsageError
from pytest_comfyload.gateway.gateway_settings import Caller, caller_of, parse_networks

PROXIES = parse_networks(["10.0.0.0/8", "::1"])


@pytest.mark.parametrize(
    ("peer", "headers", "query", "caller"),
    [
        ("192.0.2.7", {}, {}, Caller("address-192.0.2.7")),
        ("192.0.2.7", {"X-User": "ann", "X-Priority": "2", "X-Forwarded-For": "::2"}, {}, Caller("address-192.0.2.7")),
        ("10.0.0.2", {"X-User": "ann"}, {}, Caller("user-ann")),
        ("::1", {"X-User": "ann", "X-Priority": "-7"}, {}, Caller("user-ann", -2)),
        ("10.0.0.2", {"X-Priority": "x", "X-Forwarded-For": "::1, 192.0.2.1"}, {}, Caller("address-192.0.2.1")),
        ("unix", {"X-User": "ann"}, {}, Caller("address-unix")),
    ],
)  # fmt: skip
def test_a_user_is_who_a_trusted_proxy_names_else_an_address(
    peer: str, headers: dict[str, str], query: dict[str, str], caller: Caller
) -> None:
    assert caller_of(peer, headers, query, PROXIES) == caller


def test_a_key_is_one_user_wherever_it_comes_from_and_is_not_kept() -> None:
    ways = [({"Authorization": "secret"}, {}), ({"X-API-Key": "secret"}, {}), ({}, {"token": "secret"})]
    users = {caller_of(f"192.0.2.{number}", *way, PROXIES).user for number, way in enumerate(ways)}
    [user] = users
    assert user.startswith("key-")
    assert "secret" not in user
    assert caller_of("192.0.2.1", {"X-API-Key": "other"}, {}, PROXIES).user != user


def test_a_name_of_any_length_is_a_short_key_of_its_own() -> None:
    names = [caller_of("10.0.0.2", {"X-User": "a" * length}, {}, PROXIES).user for length in (10, 5000, 5001)]
    assert len(set(names)) == 3
    assert all(len(name) < 130 for name in names)


def test_the_command_refuses_what_is_no_redis() -> None:
    with pytest.raises(UsageError, match="give redis://host:6379/0"):
        gateway(["http://127.0.0.1:1"], "nonsense")


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--trusted-proxy nginx: .*give 172"):
        parse_networks(["nginx"])
