"""A model of a server's history that changes between any two requests of a poll, and what the tail reads from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_comfyload.monitor import history_tail
from pytest_comfyload.monitor.history_tail import PAGE, HistoryTail, News, PageRequest


@dataclass(frozen=True)
class Ended:
    prompt_id: str


@dataclass
class Server:
    """A model of ComfyUI's history: at most `keeps` entries, the newest last."""

    keeps: int = 10_001
    history: list[Ended] = field(default_factory=list)
    count: int = 0

    def end(self, prompts: int = 1) -> None:
        for _ in range(prompts):
            self.history.append(Ended(str(self.count)))
            self.count += 1
        del self.history[: max(0, len(self.history) - self.keeps)]

    def page(self, request: PageRequest) -> list[Ended]:
        size, offset = request
        begin = max(0, len(self.history) - size) if offset is None else offset
        return self.history[begin : begin + size]


def look(tail: HistoryTail[Ended], server: Server, between: Callable[[], None] = lambda: None) -> News[Ended]:
    """Poll once; `between` is called before each request."""
    reading = tail.look()
    request = next(reading)
    while True:
        assert request.size <= PAGE
        between()
        try:
            request = reading.send(server.page(request))
        except StopIteration as done:
            news: News[Ended] = done.value
            return news


def ids(news: News[Ended]) -> list[int]:
    return [int(each.prompt_id) for each in news.ended]


@pytest.mark.parametrize("before", [0, 1, 63, 64, 65, 500])
@pytest.mark.parametrize("after", [0, 1, 3, 15, 63, 64, 65, 128, 129, 700])
def test_what_ends_after_the_first_look_is_news_in_its_order(before: int, after: int) -> None:
    server, tail = Server(), HistoryTail[Ended]()
    server.end(before)
    first = look(tail, server)
    assert (first.ended, len(first.before)) == ((), min(before, PAGE))
    server.end(after)
    news = look(tail, server)
    assert ids(news) == list(range(before, before + after))
    assert (news.lost, news.gap) == (False, False)
    assert look(tail, server) == News(all_new=before + after == 0)


def test_an_idle_server_is_asked_for_one_entry() -> None:
    server, tail, asked = Server(), HistoryTail[Ended](), list[int]()
    server.end(300)
    look(tail, server)
    look(tail, server, lambda: asked.append(1))
    assert asked == [1]


def test_a_restart_is_news_of_all_that_has_ended_since() -> None:
    server, tail = Server(), HistoryTail[Ended]()
    server.end(10)
    look(tail, server)
    server.history.clear()
    server.end(5)
    news = look(tail, server)
    assert (ids(news), news.lost, news.gap) == ([10, 11, 12, 13, 14], True, False)


def test_an_empty_history_is_lost_once() -> None:
    server, tail = Server(), HistoryTail[Ended]()
    server.end(10)
    look(tail, server)
    server.history.clear()
    assert look(tail, server) == News(all_new=True, lost=True)
    assert look(tail, server) == News(all_new=True)
    server.end(2)
    news = look(tail, server)
    assert (ids(news), news.all_new, news.lost) == ([10, 11], True, False)
    assert look(tail, server) == News()
    server.history.clear()
    assert look(tail, server) == News(all_new=True, lost=True)


def test_more_ends_than_the_history_keeps_are_a_gap() -> None:
    server, tail = Server(), HistoryTail[Ended]()
    server.end(10)
    look(tail, server)
    server.end(10_002)
    news = look(tail, server)
    assert (len(news.ended), news.lost, news.gap) == (10_001, False, True)


def test_deleted_entries_do_not_make_others_new() -> None:
    server, tail = Server(), HistoryTail[Ended]()
    server.end(200)
    look(tail, server)
    server.end(3)
    # Deletes the last entry that was seen, and some before it.
    del server.history[150:200]
    assert ids(look(tail, server)) == [200, 201, 202]


def test_ids_of_an_earlier_process_go_on() -> None:
    server, tail = Server(), HistoryTail[Ended]()
    server.end(20)
    look(tail, server)
    server.end(20)
    assert ids(look(HistoryTail(tail.seen), server)) == list(range(20, 40))


def test_a_look_that_is_given_up_is_repeated() -> None:
    server, tail = Server(), HistoryTail[Ended]()
    server.end(1)
    look(tail, server)
    server.end(5)
    reading = tail.look()
    reading.send(server.page(next(reading)))
    reading.close()
    assert ids(look(tail, server)) == [1, 2, 3, 4, 5]


def test_remembered_ids_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_tail, "REMEMBERED", 100)
    server, tail = Server(keeps=50), HistoryTail[Ended]()
    look(tail, server)
    for _ in range(100):
        server.end(7)
        assert len(ids(look(tail, server))) == 7
    assert tail.seen == tuple(map(str, range(600, 700)))


steps = st.lists(
    st.tuples(st.sampled_from(["end", "end", "end", "delete", "restart"]), st.integers(0, 200)), max_size=30
)


@settings(max_examples=300)
@given(steps, st.lists(st.integers(0, 30), max_size=200), st.sampled_from([70, 150, 10_001]))
def test_whatever_the_history_does_nothing_counts_twice_and_what_it_keeps_counts(
    changes: list[tuple[str, int]], meanwhile: list[int], keeps: int
) -> None:
    """Prompts also end between the requests of a poll; the history may be so short that it overflows."""
    server, tail, counted, arrivals = Server(keeps), HistoryTail[Ended](), list[int](), iter(meanwhile)

    def looked() -> None:
        before = {int(each.prompt_id) for each in server.history}
        new = ids(look(tail, server, lambda: server.end(next(arrivals, 0))))
        # If a history is replaced while it is being read, the order is lost.
        assert new == sorted(new) or keeps < 10_000
        counted.extend(new)
        still = before & {int(each.prompt_id) for each in server.history}
        assert all(each in counted or each < first for each in still)

    look(tail, server)
    first = server.count
    for change, size in changes:
        if change == "end":
            server.end(size)
        elif change == "delete":
            del server.history[len(server.history) // 2 : len(server.history) // 2 + size]
        else:
            server.history.clear()
        looked()
    assert len(counted) == len(set(counted))
