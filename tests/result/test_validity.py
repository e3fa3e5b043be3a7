"""A prompt from the cache is not a measurement: no time includes it, and a run with many of them is invalid."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_comfyload.result.outcome import CacheClass, Outcome, OutcomeStatus, classes_of
from pytest_comfyload.scenario.executors import PerUserIterations
from tests.result.made import prompt, run_of

SAVED = {"KSampler": 2.0, "SaveImage": 0.1}
OUTPUT_ONLY = {"SaveImage": 0.1}


def hit(at: float = 0.0, **facts: Any) -> Outcome:
    """Return a prompt whose sampler had new input and nevertheless came from the cache."""
    given = {"cache_class": CacheClass.PARTLY, "cached": ("Loader", "KSampler"), "reused": ("KSampler",), **facts}
    return prompt(at, OUTPUT_ONLY, **given)


def ran(count: int, start: float = 100.0) -> list[Outcome]:
    return [
        prompt(start + number, SAVED, cached=("Loader",), cache_class=CacheClass.WARM, outputs=())
        for number in range(count)
    ]


@pytest.mark.parametrize(("hits", "others", "state"), [(1, 19, "valid"), (1, 18, "invalid"), (2, 0, "invalid")])
def test_more_than_a_twentieth_makes_the_run_invalid(hits: int, others: int, state: str) -> None:
    prompts = [*(hit(at) for at in range(hits)), *ran(others)]
    assert run_of(*prompts).state == state
    assert run_of(*prompts, allow_cached=True).state == "valid"
    # A failed prompt is not a success from the cache, and does not change their share.
    failed = [prompt(50.0 + at, status=OutcomeStatus.TIMEOUT) for at in range(40)]
    assert run_of(*prompts, *failed).state == state


def test_the_sentence_names_the_classes_the_counts_and_the_way_out() -> None:
    assert run_of(hit(), hit(1.0, reused=("KSampler", "VAEDecode")), *ran(2)).invalid_because == (
        "KSampler, VAEDecode had new input and came from the server's cache in 2 of 4 successful prompts: an earlier "
        "run sent the same; leave out seed= or give another one, empty the cache (restart the server, or POST "
        '/free {"free_memory": true}), or pass allow_cached=True'
    )
    whole = prompt(1.0, cache_class=CacheClass.FULLY, cached=("KSampler",))
    assert run_of(whole).invalid_because == (
        "the only successful prompt came entirely from the server's cache, so nothing was generated; vary a seed or an "
        "input, require the work with must_run=[…], or pass allow_cached=True"
    )


def test_what_had_no_new_input_may_be_cached() -> None:
    assert run_of(*ran(3)).state == "valid"
    # A record of an earlier version, in which the classes had other meanings.
    old = prompt(1.0, SAVED, cache_class=CacheClass.PARTLY, cached=("CLIPTextEncode",))
    assert run_of(old).state == "valid"


def test_a_prompt_from_the_cache_is_in_no_time_and_no_rate() -> None:
    alone, both = run_of(*ran(30, 10.0)), run_of(hit(5.0), *ran(30, 10.0))
    assert both.state == "valid"
    for name in ("queue_time", "generation_time", "delivery_time", "fetch_time", "total_time", "save_time"):
        assert getattr(both, name).n == getattr(alone, name).n == 30, name
    assert both.node_time["SaveImage"].n == 30
    assert float(both.prompt_throughput) == float(alone.prompt_throughput)
    assert float(both.goodput(total_time=60).rate) == float(alone.goodput(total_time=60).rate)
    assert both.goodput(total_time=60).share.n == 30
    # These are about the generator and the submission, or are counts, so they include the cached prompt.
    assert both.send_lag.n == both.submit_time.n == 31
    assert both.success_rate == 100
    assert (both.success_rate.n, both.accounting.submitted, int(both.cached)) == (31, 31, 1)
    assert both.to_dict()["cached"] == 1


def test_where_it_is_allowed_all_prompts_count() -> None:
    load = run_of(hit(5.0), *ran(3, 10.0), allow_cached=True)
    assert (load.generation_time.n, int(load.cached)) == (4, 1)
    assert load.node_time["SaveImage"].n == 4


def test_a_failure_counts_as_one_whatever_was_cached() -> None:
    failed = hit(5.0, status=OutcomeStatus.OOM)
    load = run_of(failed, *ran(3, 10.0))
    assert (load.total_time.failed, int(load.cached)) == (1, 0)
    assert load.success_rate == 75


def test_waits_beside_prompts_from_the_cache_are_not_replayed() -> None:
    facts: dict[str, Any] = {"executors": (PerUserIterations.name,)}
    prompts = [prompt(4.0 * at, SAVED, iteration=at) for at in range(40)]
    load = run_of(hit(160.0, iteration=40), *prompts, **facts)
    assert load.state == "valid"
    assert "came from the server's cache" in str(load._reruns.objection)
    assert run_of(*prompts, **facts)._reruns.objection is None


def test_must_run_is_judged_also_where_the_cache_is_allowed() -> None:
    ran, hit = prompt(0.0, SAVED), prompt(1.0, {"SaveImage": 0.1}, cached=("KSampler",))
    load = run_of(ran, hit, ran, must_run=("SaveImage", "KSampler"), allow_cached=True)
    assert str(load.invalid_because).startswith("must_run: KSampler did not run in 1 of 3 successful prompts")
    assert "inputs={'KSampler.…': [..., ...]}" in str(load.invalid_because)
    assert run_of(ran, ran, must_run=("KSampler",)).state == "valid"


def test_must_run_wants_every_node_of_the_class() -> None:
    half = prompt(0.0, SAVED, cached=("KSampler",))
    assert run_of(half, must_run=("KSampler",)).state == "invalid"


def test_a_class_that_leads_to_no_output_never_ran() -> None:
    assert run_of(prompt(0.0, SAVED), must_run=("Dangling",)).state == "invalid"


def test_a_prompt_without_nodes_proves_nothing() -> None:
    assert run_of(prompt(0.0), must_run=("KSampler",)).state == "valid"


def test_the_classes_are_counted() -> None:
    load = run_of(
        prompt(0.0, SAVED, cached=("Loader", "CLIPTextEncode")),
        prompt(1.0, {"CLIPTextEncode": 1.0, **SAVED}, cached=("Loader", "CLIPTextEncode")),
        prompt(2.0, status=OutcomeStatus.OOM, cached=("Loader",)),
    )
    assert load.cached_classes == {"Loader": 2, "CLIPTextEncode": 1}
    assert load.always_ran == ("KSampler", "SaveImage")
    assert load.to_dict()["cached_classes"] == {"Loader": 2, "CLIPTextEncode": 1}


def test_the_classes_of_cached_nodes() -> None:
    graph = {"1": {"class_type": "A"}, "2": {"class_type": "B"}, "3": {"class_type": "A"}}
    assert classes_of(graph, {"3", "1", "9"}) == ("A",)
