"""The Lua scripts do the same as a pure Python model, for any events in any order."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_comfyload.gateway.redis_calls import script
from tests.gateway.model import Model

MOST, MOST_BYTES, INTERVAL, BURST = 5, 200, 0.5, 3
KEEP, HISTORY = 3600, 1000

IDS = st.sampled_from([f"p{number}" for number in range(9)])
USERS = st.sampled_from(["ann", "bob", "cem"])
WORKERS = st.sampled_from(["w1", "w2"])
GATEWAYS = st.sampled_from(["g1", "g1", "g1", "g2"])
MODELS = st.sampled_from(["", "x", "y"])
PAUSES = st.sampled_from([0.0, 0.125, 1.0, 7.25])
STEPS = st.one_of(
    st.tuples(
        st.just("enqueue"), IDS, USERS, st.sampled_from([0, 0, 0, 1, -2]), st.sampled_from(["", "", "front", "2.5"]),
        st.sampled_from([1, 10, 80]), st.sampled_from(["", "", ",w1,", ",w1,w2,"]), MODELS,
    ),
    st.tuples(st.just("own"), WORKERS, GATEWAYS),
    st.tuples(st.just("take"), WORKERS, GATEWAYS, st.booleans(), MODELS, st.just("")),
    st.tuples(st.just("take"), WORKERS, GATEWAYS, st.booleans(), MODELS, st.one_of(st.just(""), IDS)),
    st.tuples(st.just("renew"), IDS, st.booleans()),
    st.tuples(st.just("give_back"), IDS, st.booleans(), st.sampled_from(["", "1"])),
    st.tuples(st.just("finish"), IDS, st.sampled_from(["right", "right", "wrong", "other try"])),
    st.tuples(st.just("cancel"), USERS, st.lists(IDS, max_size=3), st.booleans(), st.booleans()),
)  # fmt: skip


class Both:
    """Runs the same steps in Redis and in the model."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url)
        self.redis.flushall()
        self.model = Model(MOST, MOST_BYTES, INTERVAL, BURST)
        self.now = 1000.0
        self._tokens = 0

    def run(self, name: str, *args: Any) -> Any:
        # As a Lua number, the time would lose its fraction.
        found: Any = self.redis.eval(script(name), 1, "t:", repr(self.now), *args)
        if isinstance(found, list):
            return [None if each is None else each.decode() if isinstance(each, bytes) else str(each) for each in found]
        return found.decode() if isinstance(found, bytes) else found

    def step(self, name: str, *args: Any) -> None:
        getattr(self, f"_{name}")(*args)
        self._compare()

    def _enqueue(self, id: str, user: str, priority: int, order: str, size: int, fit: str, model: str) -> None:
        what = (id, user, "client", priority, order, "x" * size, size, fit, model, self.now)
        found = self.run("enqueue", *what, MOST, MOST_BYTES, INTERVAL, BURST)
        expected = self.model.enqueue(self.now, id, user, priority, order, size, fit, model)
        assert found[: len(expected)] == expected
        assert len(found) == len(expected) or expected == ["slow"]

    def _own(self, worker: str, gateway: str) -> None:
        assert self.run("own", worker, gateway, 1000) == self.model.own(worker, gateway)

    def _take(self, worker: str, gateway: str, again: bool, loaded: str, wanted: str) -> None:
        self._tokens += not again
        token = f"t{self._tokens}"
        found = self.run("take", worker, gateway, token, 60, loaded, "link", wanted)
        assert found[:2] == self.model.take(self.now, worker, gateway, token, loaded, wanted)

    def _token(self, id: str, right: bool) -> str:
        known = self.model.prompts.get(id)
        return known.token if right and known is not None else "wrong"

    def _renew(self, id: str, right: bool) -> None:
        token = self._token(id, right)
        assert self.run("renew", id, token, 60) == self.model.renew(id, token)

    def _give_back(self, id: str, right: bool, suspicion: str) -> None:
        token = self._token(id, right)
        assert self.run("give_back", id, token, suspicion) == self.model.give_back(id, token, suspicion)

    def _finish(self, id: str, kind: str) -> None:
        known = self.model.prompts.get(id)
        token = self._token(id, kind == "right")
        attempt = str((known.tries if known else 0) + (kind == "other try"))
        found = self.run("finish", id, token, attempt, "success", "{}", KEEP, HISTORY, 0, 1, "frame", "file")
        assert found == self.model.finish(self.now, id, token, attempt)

    def _cancel(self, user: str, ids: list[str], waiting: bool, running: bool) -> None:
        found = self.run("cancel", user, "1" if waiting else "", "1" if running else "", *ids)
        assert found == self.model.cancel(user, ids, waiting=waiting, running=running)

    def _compare(self) -> None:
        model, client = self.model, self.redis
        totals: Any = client.hgetall("t:totals")
        told = {name.decode(): float(value) for name, value in totals.items()}
        waiting = model.waiting
        assert told.get("waiting", 0) == len(waiting)
        assert told.get("bytes", 0) == sum(each.size for each in waiting)
        assert told.get("twice", 0) == model.twice
        assert told.get("retries", 0) == model.retries
        running: Any = client.hgetall("t:running")
        assert {key.decode(): value.decode() for key, value in running.items()} == model.running
        leases: Any = client.zrange("t:leases", 0, -1)
        assert sorted(each.decode() for each in leases) == sorted(model.running.values())
        virtual: Any = client.zrange("t:virtual", 0, -1, withscores=True)
        assert {name.decode(): at for name, at in virtual} == model.virtual
        for worker in ("w1", "w2"):
            suspects: Any = client.hgetall(f"t:suspects:{worker}")
            known = {id: attempt for (place, id), attempt in model.suspects.items() if place == worker}
            assert {id.decode(): attempt.decode() for id, attempt in suspects.items()} == known
        turns: Any = client.zrange("t:turns", 0, -1)
        lines: list[Any] = [client.zrange(f"t:waits:{turn.decode()}", 0, -1) for turn in turns]
        ordered = [member.decode()[16:] for line in lines for member in line]
        assert ordered == [each.id for each in waiting]


@given(st.lists(st.tuples(PAUSES, STEPS), min_size=20, max_size=60))
@settings(max_examples=40)
def test_the_scripts_do_what_the_model_does(redis_process: str, steps: list[tuple[float, tuple[Any, ...]]]) -> None:
    both = Both(redis_process)
    with both.redis:
        both.step("own", "w1", "g1")
        both.step("own", "w2", "g1")
        for pause, step in steps:
            both.now += pause
            both.step(*step)
    assert both.model.is_finite()


@pytest.fixture
def both(redis_url: str) -> Both:
    made = Both(redis_url)
    made.step("own", "w1", "g1")
    return made


def order_of_taking(both: Both, seconds: float = 1.0) -> list[str]:
    """Return the prompts in the order in which one worker gets them, each taking `seconds`."""
    ids: list[str] = []
    while (found := both.run("take", "w1", "g1", f"token{len(ids)}", 60, "", ""))[0] == "new":
        ids.append(found[1])
        both.now += seconds
        both.run("finish", found[1], f"token{len(ids) - 1}", 1, "success", "{}", KEEP, HISTORY, 0, 0)
    return ids


def send(both: Both, id: str, user: str, priority: int = 0, order: str = "") -> list[str]:
    sent: list[str] = both.run("enqueue", id, user, "", priority, order, "x", 1, "", "", 0, 1000, 10**6, 0, 0)
    return sent


def test_a_light_user_waits_for_no_flood(both: Both) -> None:
    for number in range(50):
        send(both, f"flood{number}", "flooder")
    for number in range(3):
        send(both, f"light{number}", "light")
    taken = order_of_taking(both)
    assert [taken.index(f"light{number}") for number in range(3)] == [1, 3, 5]
    assert [each for each in taken if each.startswith("flood")] == [f"flood{number}" for number in range(50)]


def test_idle_time_earns_no_credit(both: Both) -> None:
    for number in range(20):
        send(both, f"early{number}", "ann")
    order_of_taking(both)
    for number in range(4):
        send(both, f"a{number}", "ann")
        send(both, f"b{number}", "bob")
    users = "".join(each[0] for each in order_of_taking(both))
    assert users in ("abababab", "babababa")


def test_long_prompts_count_for_what_they_take(both: Both) -> None:
    """Of two users, the one whose prompts take ten times as long gets a tenth of the turns."""
    for number in range(30):
        send(both, f"long{number}", "long")
        send(both, f"short{number}", "short")
    taken = []
    for number in range(22):
        _, id, *_ = both.run("take", "w1", "g1", f"token{number}", 60, "", "")
        taken.append(id)
        both.now += 10.0 if id.startswith("long") else 1.0
        both.run("finish", id, f"token{number}", 1, "success", "{}", KEEP, HISTORY, 0, 0)
    assert 2 <= sum(id.startswith("long") for id in taken) <= 4


def test_priorities_come_first_and_fronts_go_before_prompts_of_the_same_user(both: Both) -> None:
    send(both, "plain", "ann")
    send(both, "front", "ann", order="front")
    send(both, "later", "ann", order="99")
    send(both, "urgent", "bob", priority=1)
    send(both, "idle", "cem", priority=-1)
    assert order_of_taking(both) == ["urgent", "front", "plain", "later", "idle"]


def test_a_worker_gets_only_what_it_can_execute(both: Both) -> None:
    both.run("enqueue", "a", "ann", "", 0, "", "x", 1, ",w2,", "", 0, 10, 10, 0, 0)
    both.run("enqueue", "b", "ann", "", 0, "", "x", 1, "", "", 0, 10, 10, 0, 0)
    both.run("own", "w2", "g1", 60)
    assert both.run("take", "w1", "g1", "t1", 60, "", "")[:2] == ["new", "b"]
    assert both.run("take", "w2", "g1", "t2", 60, "", "")[:2] == ["new", "a"]


def test_a_loaded_model_is_preferred_but_no_prompt_is_passed_over_more_than_four_times(both: Both) -> None:
    both.run("enqueue", "cold", "ann", "", 0, "", "x", 1, "", "other", 0, 99, 99, 0, 0)
    for number in range(8):
        both.run("enqueue", f"warm{number}", "ann", "", 0, "", "x", 1, "", "loaded", 0, 99, 99, 0, 0)
    taken = []
    for number in range(6):
        id = both.run("take", "w1", "g1", f"token{number}", 60, "loaded", "")[1]
        both.run("finish", id, f"token{number}", 1, "success", "{}", KEEP, HISTORY, 0, 0)
        taken.append(id)
    assert taken == ["warm0", "warm1", "warm2", "warm3", "cold", "warm4"]


def test_a_result_that_comes_for_a_prompt_that_waits_again_counts(both: Both) -> None:
    """After a crash of Redis, or when a worker was considered lost."""
    send(both, "a", "ann")
    both.run("take", "w1", "g1", "t1", 60, "", "")
    both.run("give_back", "a", "t1", "1")
    assert both.run("finish", "a", "t1", 1, "success", "{}", KEEP, HISTORY, 0, 0) == "ok"
    assert both.run("take", "w1", "g1", "t2", 60, "", "") == ["none"]
    assert both.run("finish", "a", "t9", 2, "success", "{}", KEEP, HISTORY, 0, 0) == "late"
    assert both.redis.hget("t:totals", "twice") == b"1"


def test_a_prompt_that_a_worker_still_executes_goes_on_as_the_same_try(both: Both) -> None:
    """It was considered lost, and is waiting; another prompt is ahead of it in the queue."""
    send(both, "a", "ann")
    send(both, "b", "ann", order="front")
    both.run("take", "w1", "g1", "t1", 60, "", "link")
    both.run("give_back", "b", "t1", "1")
    word, id, _, _, _, tries, _, _, link = both.run("take", "w1", "g1", "t2", 60, "", "other", "b")
    assert (word, id, tries, link) == ("found", "b", "1", "link")
    assert both.run("finish", "b", "t2", 1, "success", "{}", KEEP, HISTORY, 0, 0) == "ok"
    assert both.run("take", "w1", "g1", "t3", 60, "", "other", "b") == ["none"]


def test_ended_prompts_are_forgotten_in_time(both: Both) -> None:
    send(both, "a", "ann")
    both.run("take", "w1", "g1", "t1", 60, "", "")
    both.run("finish", "a", "t1", 1, "success", "{}", KEEP, HISTORY, 0, 0, "output/w1/x.png")
    keys: Any = both.redis.keys("t:*")
    forgotten = {key.decode() for key in keys if both.redis.ttl(key) > 0}
    assert forgotten == {"t:prompt:a", "t:history:ann", "t:file:output/w1/x.png", "t:owner:w1"}
    assert {key.decode() for key in keys} - forgotten == {"t:totals"}
