from __future__ import annotations

import base64
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.client.address import ServerAddress, parse_headers, server_addresses
from pytest_comfyload.errors import UsageError
from pytest_comfyload.redaction import only_now, redacted


@pytest.mark.parametrize(
    ("text", "url", "socket_url"),
    [
        ("http://gpu1:8188", "http://gpu1:8188", "ws://gpu1:8188/ws?clientId=me"),
        (" http://gpu1:8188/ ", "http://gpu1:8188", "ws://gpu1:8188/ws?clientId=me"),
        ("https://Farm.example/comfy/", "https://farm.example/comfy", "wss://farm.example/comfy/ws?clientId=me"),
        ("http://[::1]:8188", "http://[::1]:8188", "ws://[::1]:8188/ws?clientId=me"),
        ("http://u:p@[fe80::1]/x", "http://[fe80::1]/x", "ws://[fe80::1]/x/ws?clientId=me"),
    ],
)
def test_addresses(text: str, url: str, socket_url: str) -> None:
    address = ServerAddress.parse(text)
    assert address.url == url
    assert address.socket_url("me") == socket_url


def test_routes_keep_the_prefix_and_quote_the_query() -> None:
    address = ServerAddress.parse("http://gpu1/comfy")
    assert address.route("/view", {"filename": "a b&c.png"}) == "http://gpu1/comfy/view?filename=a+b%26c.png"


def test_credentials_become_basic_auth_and_are_never_shown() -> None:
    address = ServerAddress.parse("http://anna:s3cr%40t@gpu1:8188", {"X-Api-Key": "t0ken"})
    encoded = base64.b64encode(b"anna:s3cr@t").decode()
    assert address.headers == {"Authorization": f"Basic {encoded}", "X-Api-Key": "t0ken"}
    for shown in (repr(address), str(address), address.url, address.socket_url("me"), address.route("/prompt")):
        for secret in ("anna", "s3cr", encoded, "t0ken"):
            assert secret not in shown


def test_a_query_is_sent_and_never_shown() -> None:
    address = ServerAddress.parse("https://gpu1/comfy/?token=s3cr%2Ftok%20en&team=a#top")
    assert address.url == "https://gpu1/comfy"
    assert address.full_query("") == "token=s3cr%2Ftok%20en&team=a"
    assert address.full_query("filename=a") == "token=s3cr%2Ftok%20en&team=a&filename=a"
    assert address.socket_url("me") == "wss://gpu1/comfy/ws?token=s3cr%2Ftok%20en&team=a&clientId=me"
    for shown in (repr(address), str(address), address.url, address.route("/prompt", {"a": "b"})):
        assert "s3cr" not in shown
    words = "refused: s3cr%2Ftok%20en (s3cr/tok en) of team a"
    assert redacted(words) == "refused: … (…) of team a"
    assert ServerAddress.parse("http://gpu1") == ServerAddress.parse("http://gpu1?token=x")


@pytest.mark.parametrize(
    "text",
    ["gpu1:8188?token=s3cret", "http://gpu1:port/?s3cret", "http://[::1?token=s3cret", "http://gpu1?a=s3cret\u00e9"],
)
def test_a_query_of_what_is_no_address_is_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        ServerAddress.parse(text)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(UsageError, match="name the server without a query") as caught:
        server_addresses(["http://gpu1"], header_files=["http://gpu1?token=s3cret"])
    assert "s3cret" not in str(caught.value)


def test_addresses_are_equal_by_url() -> None:
    assert ServerAddress.parse("http://a:b@gpu1") == ServerAddress.parse("http://gpu1", {"X": "y"})
    assert pickle.loads(pickle.dumps(ServerAddress.parse("http://gpu1", {"X": "y"}))).headers == {"X": "y"}


def test_a_user_without_a_password() -> None:
    encoded = base64.b64encode(b"anna:").decode()
    assert ServerAddress.parse("http://anna@gpu1").headers == {"Authorization": f"Basic {encoded}"}


@pytest.mark.parametrize("text", ["gpu1:8188", "", "ftp://gpu1", "http://", "http://gpu1:port", "http://[::1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a server URL"):
        ServerAddress.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "ftp://anna:s3cret@gpu1",
        "ftp://anna:s3c@s3cret@gpu1",
        "anna:s3cret@gpu1:8188",
        "http://anna:s3cret/s3cret@gpu1",
        "http://anna:s3cret@gpu1:port",
        "http://anna:s3cret@[::1",
        "http://s3cret@gpu1:99999",
        "http://anna:s3cret\u2100@gpu1",
        "ftp://anna:s3\ncret@s3cret@gpu1",
    ],
)
def test_a_refusal_hides_the_password(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        ServerAddress.parse(text)
    assert "s3c" not in str(caught.value)


@given(st.text(st.characters(codec="utf-8"), min_size=4), st.sampled_from(["http://", "ftp://", "", "http://["]))
def test_no_password_is_ever_shown(password: str, scheme: str) -> None:
    secret = f"<{password}>"
    with only_now():
        try:
            shown = repr(ServerAddress.parse(f"{scheme}anna:{secret}@gpu1"))
        except UsageError as error:
            shown = str(error)
    assert secret not in shown
    assert repr(secret)[1:-1] not in shown


def test_header_lines() -> None:
    lines = "# a comment\n\nX-Api-Key: t0ken\n Cookie:a=b; c=d \nAuthorization: Bearer x:y\n"
    assert parse_headers(lines, "COMFYUI_HEADERS") == {
        "X-Api-Key": "t0ken",
        "Cookie": "a=b; c=d",
        "Authorization": "Bearer x:y",
    }


@pytest.mark.parametrize("line", ["t0ken", ": t0ken", "X Y: t0ken", "X: t0k\u20acen", "X: t0\0ken", "X: t0ken\x7f"])
def test_a_line_that_is_no_header_is_named_by_its_number(line: str) -> None:
    with pytest.raises(UsageError, match=r"headers\.txt, line 2: not a header") as caught:
        parse_headers(f"A: b\n{line}\n", "headers.txt")
    assert "t0" not in str(caught.value)


def test_header_files(tmp_path: Path) -> None:
    path = tmp_path / "headers.txt"
    path.write_text("X-Api-Key: t0ken\n", encoding="utf-8")
    servers = ["http://gpu1:8188/", "http://gpu2:8188"]
    (for_all,) = server_addresses(servers, header_files=[str(path)], header_lines="X-Team: a\nX-Api-Key: older")
    assert [each.headers for each in for_all] == [{"X-Team": "a", "X-Api-Key": "t0ken"}] * 2
    (for_one,) = server_addresses([*servers, "http://gpu1:8188"], header_files=[f"http://u:p@gpu1:8188/={path}"])
    assert [each.headers for each in for_one] == [{"X-Api-Key": "t0ken"}, {}]


def test_a_header_file_names_a_server_or_another_known_one(tmp_path: Path) -> None:
    path = tmp_path / "headers.txt"
    path.write_text("X-Api-Key: t0ken\n", encoding="utf-8")
    with pytest.raises(
        UsageError, match=r"names http://gpu3, which is not one of the servers: http://gpu1, http://gpu2"
    ):
        server_addresses(["http://gpu1"], ["http://gpu2"], header_files=[f"http://gpu3={path}"])
    (first,), (second,) = server_addresses(["http://gpu1"], ["http://gpu2"], header_files=[f"http://gpu2={path}"])
    assert (first.headers, second.headers) == ({}, {"X-Api-Key": "t0ken"})


def test_a_header_file_is_read_once() -> None:
    """`--comfyui-header-file <(command)` names a pipe, which is empty when it is read again."""
    read, write = os.pipe()
    os.write(write, b"X-Api-Key: t0ken\n")
    os.close(write)
    try:
        groups = server_addresses(["http://gpu1"], ["http://gpu2"], header_files=[f"/dev/fd/{read}"])
    finally:
        os.close(read)
    assert [server.headers for servers in groups for server in servers] == [{"X-Api-Key": "t0ken"}] * 2


def test_header_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        server_addresses(header_files=[str(tmp_path / "missing")])
    (tmp_path / "latin").write_bytes(b"X: \xff")
    with pytest.raises(UsageError, match="cannot be read: not UTF-8"):
        server_addresses(header_files=[str(tmp_path / "latin")])


def test_a_header_file_that_is_a_url_hides_its_password() -> None:
    with pytest.raises(UsageError) as caught:
        server_addresses(header_files=["http://anna:s3cret@gpu1:8188"])
    assert "s3cret" not in str(caught.value)
