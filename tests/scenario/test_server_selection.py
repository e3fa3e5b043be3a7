"""Which servers a load goes to: only servers that were named, and always at least one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.errors import UsageError
from pytest_comfyload.scenario.scenario import Scenario
from pytest_comfyload.scenario.server_selection import ALL_SERVERS, ServerChoice

URLS = ("http://gpu1:8188", "http://gpu2:8188", "https://farm.example/three")


@pytest.mark.parametrize(
    ("servers", "places"),
    [
        ("all", (0, 1, 2)),
        (1, (0,)),
        (2, (0, 1)),
        ("http://gpu2:8188", (1,)),
        # Other spellings of the same URL.
        (" http://user:secret@GPU2:8188/", (1,)),
        (["https://farm.example/three/", "http://gpu1:8188"], (0, 2)),
        ([2, 0], (0, 2)),
        ((1, "http://gpu2:8188", 1), (1,)),
    ],
    ids=str,
)
def test_a_choice_among_three(servers: object, places: tuple[int, ...]) -> None:
    assert ServerChoice.parse(servers).of(URLS) == places


@given(
    st.just("all") | st.integers(1, 6) | st.lists(st.integers(0, 5) | st.sampled_from(URLS), min_size=1, max_size=4),
    st.integers(1, 3),
)
def test_only_named_servers_are_chosen_or_it_is_refused(servers: object, count: int) -> None:
    choice, urls = ServerChoice.parse(servers), URLS[:count]
    if choice.least > count or set(choice.picked) & set(URLS[count:]):
        with pytest.raises(UsageError, match="--comfyui-url"):
            choice.of(urls)
        return
    places = choice.of(urls)
    assert places
    assert list(places) == sorted(set(places) & set(range(count)))


@pytest.mark.parametrize(
    ("servers", "said"),
    [
        (4, "servers=4 needs 4 servers, and there is only http://gpu1:8188, http://gpu2:8188, https://farm.example/"),
        ([0, 3], "servers=[0, 3] needs 4 servers, and there is only http://gpu1:8188"),
        (
            "http://gpu3:8188",
            "servers: http://gpu3:8188 is not one of the servers of this run; legal: http://gpu",
        ),
    ],
    ids=str,
)
def test_a_server_that_was_not_named_is_refused_with_the_way_out(servers: object, said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        ServerChoice.parse(servers).of(URLS)
    assert str(refusal.value).startswith(said)
    assert "--comfyui-url" in str(refusal.value)


@pytest.mark.parametrize(
    "servers", [None, True, 2.5, 0, -1, [], [-1], [True], "gpu1", "ftp://gpu1", "http://", [["a"]]]
)
def test_what_names_no_server_is_refused(servers: object) -> None:
    with pytest.raises(UsageError, match="write 'all', how many, a URL"):
        ServerChoice.parse(servers)


@pytest.mark.parametrize("url", ["http://user:secret@gpu9:8188", "user:secret@gpu9", "http://user:secret@gpu9:port"])
def test_no_refusal_shows_a_password(url: str) -> None:
    with pytest.raises(UsageError, match="gpu9") as refusal:
        ServerChoice.parse(url).of(URLS)
    assert "secret" not in str(refusal.value)


def test_groups_choose_for_themselves_or_share_a_choice() -> None:
    groups = {"light": {"servers": [1]}, "flooder": {"burst": 9}}
    scenario = Scenario.build("txt2img", groups=groups, servers=2)
    assert {name: part.servers.of(URLS) for name, part in scenario.parts} == {"light": (1,), "flooder": (0, 1)}
    assert Scenario.build("txt2img").servers is ALL_SERVERS
