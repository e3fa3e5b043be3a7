"""A run that measured the cache is no result: it names the classes, the prompts and the way out."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import CacheClass, Outcome, OutcomeStatus, cached_classes
from tests.result.made import prompt, run_of

COLD = {"CheckpointLoaderSimple": 20.0, "CLIPTextEncode": 5.0, "Upscale": 3.0, "KSampler": 2.0, "SaveImage": 0.1}
SAVED = {"KSampler": 2.0, "SaveImage": 0.1}


def warmed(*measured: Outcome, **facts: Any) -> LoadResult:
    return run_of(prompt(-10.0, COLD, warmup=True, cache_class=CacheClass.COLD), *measured, **facts)


def test_the_class_that_took_most_of_the_warm_up_must_not_be_cached() -> None:
    cached = [prompt(at, SAVED, cached=("CheckpointLoaderSimple", "Upscale")) for at in range(3)]
    load = warmed(*cached)
    assert load.state == "invalid"
    assert load.invalid_because == (
        "Upscale took most of the first prompt and came from the server's cache in all 3 successful prompts; "
        "vary a seed or an input, demand the work by must_run=[…], or pass allow_cached=True"
    )
    assert warmed(*cached, allow_cached=True).state == "valid"


def test_loading_models_and_encoding_texts_is_what_a_warm_up_is_for() -> None:
    ran = {"Upscale": 3.0, **SAVED}
    assert warmed(prompt(1.0, ran, cached=("CheckpointLoaderSimple", "CLIPTextEncode"))).state == "valid"


def test_what_took_little_may_be_cached() -> None:
    assert warmed(prompt(1.0, {"Upscale": 3.0, "SaveImage": 0.1}, cached=("KSampler",))).state == "valid"


def test_several_classes_that_together_took_most() -> None:
    because = warmed(prompt(1.0, {"SaveImage": 0.1}, cached=("Upscale", "KSampler"))).invalid_because
    assert because is not None
    assert because.startswith("Upscale, KSampler took most")


def test_the_second_node_of_a_class_still_ran() -> None:
    assert warmed(prompt(1.0, {"Upscale": 3.0, **SAVED}, cached=("Upscale",))).state == "valid"


@pytest.mark.parametrize(("hits", "state"), [(1, "valid"), (2, "valid"), (3, "invalid"), (4, "invalid")])
def test_most_prompts_decide(hits: int, state: str) -> None:
    hit = [prompt(at, SAVED, cached=("Upscale",)) for at in range(hits)]
    ran = [prompt(10 + at, {"Upscale": 3.0, **SAVED}) for at in range(4 - hits)]
    load = warmed(*hit, *ran)
    assert load.state == state
    assert hits in (1, 2) or f"{'3 of 4' if hits == 3 else 'all 4'} successful prompts" in str(load.invalid_because)


def test_workflows_are_judged_by_their_own_first_prompt() -> None:
    other = prompt(1.0, {"SaveImage": 0.1}, cached=("Upscale",), workflow="other")
    assert warmed(other).state == "valid"


def test_whole_prompts_from_the_cache() -> None:
    full = prompt(1.0, cache_class=CacheClass.FULLY, cached=("KSampler",))
    assert "1 successful prompt came whole from the server's cache" in str(run_of(full).invalid_because)
    failed = prompt(2.0, status=OutcomeStatus.TIMEOUT)
    assert run_of(failed).state == "valid"


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
    load = warmed(
        prompt(0.0, SAVED, cached=("Loader", "CLIPTextEncode")),
        prompt(1.0, {"CLIPTextEncode": 1.0, **SAVED}, cached=("Loader", "CLIPTextEncode")),
        prompt(2.0, status=OutcomeStatus.OOM, cached=("Loader",)),
    )
    assert load.cached_classes == {"Loader": 2, "CLIPTextEncode": 1}
    assert load.always_ran == ("KSampler", "SaveImage")
    assert load.to_dict()["cached_classes"] == {"Loader": 2, "CLIPTextEncode": 1}


def test_the_classes_of_cached_nodes() -> None:
    graph = {"1": {"class_type": "A"}, "2": {"class_type": "B"}, "3": {"class_type": "A"}}
    assert cached_classes(graph, {"3", "1", "9"}) == ("A",)
