"""B against A, for hand-made runs: ratios with intervals, one verdict in one sentence, and images of equal seeds."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.metrics.assessment import judge
from pytest_comfyload.metrics.regression import RegressionVerdict
from pytest_comfyload.protocol.timeline import NodeInterval
from pytest_comfyload.result.ab_figure import ABFigure
from pytest_comfyload.result.ab_result import ABResult
from pytest_comfyload.result.load_result import LoadResult
from pytest_comfyload.result.outcome import OutcomeStatus
from pytest_comfyload.result.output_files import FetchedFile
from tests.result.outcomes import failure, load_of, outcome

NOISE = (1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.01, 0.99)


def _load(seconds: float, **fields: Any) -> LoadResult:
    nodes = (NodeInterval("3", "KSampler", 1.0, 1.0 + seconds / 2),)
    return load_of(outcome(generation=seconds, nodes=nodes, **fields), window=(0.0, 60.0))


def _ab(slowdown: float, pairs: int = 8, **more: Any) -> ABResult:
    drift = [1 + 0.1 * pair for pair in range(pairs)]
    a = tuple(_load(2 * factor) for factor in drift)
    b = tuple(_load(2 * factor * slowdown * noise) for factor, noise in zip(drift, NOISE, strict=False))
    return ABResult("test", a, b, **more)


@pytest.mark.parametrize(
    ("slowdown", "verdict", "sentence"),
    [
        (1.2, RegressionVerdict.REGRESSED, "B is worse: generation_time.p50 ×1.2 (1.19–1.21, 8 pairs); limit 5 %."),
        (0.8, RegressionVerdict.IMPROVED, "B is better: generation_time.p50 ×0.8 (0.793–0.807, 8 pairs); limit 5 %."),
        (
            1.0,
            RegressionVerdict.UNCHANGED,
            "No difference between A and B: generation_time.p50 ×1 (0.991–1.01, 8 pairs); "
            "a change of 5 % would have been seen.",
        ),
        (
            1.05,
            RegressionVerdict.INCONCLUSIVE,
            "generation_time.p50 ×1.05 (1.04–1.06, 8 pairs); limit 5 %: more pairs are needed for a verdict.",
        ),
    ],
)
def test_one_verdict_in_one_sentence(slowdown: float, verdict: RegressionVerdict, sentence: str) -> None:
    ab = _ab(slowdown)
    assert ab.verdict is verdict
    assert ab.sentence() == sentence


def test_few_pairs_decide_nothing() -> None:
    ab = _ab(2.0, pairs=3)
    assert ab.verdict is RegressionVerdict.INCONCLUSIVE
    assert ab.sentence().endswith("3 pairs are too few for a verdict, which needs 7.")


def test_a_ratio_is_a_metric_with_its_interval() -> None:
    ratio = _ab(1.2).generation_time.ratio
    assert ratio == pytest.approx(1.2, abs=0.005)
    assert ratio.lower < ratio < ratio.upper
    assert (ratio.name, ratio.upper.name, ratio.unit, ratio.n) == (
        "generation_time.ratio",
        "generation_time.ratio.upper",
        "",
        8,
    )


def test_other_figures_by_the_names_of_a_load() -> None:
    ab = _ab(1.5)
    # The second in the queue and the other phases do not grow.
    assert 1 < ab.total_time.ratio < 1.5
    assert ab.node_time["KSampler"].ratio == pytest.approx(1.5, abs=0.01)
    assert ab.node_time["KSampler"].ratio.name == "node_time[KSampler].ratio"
    assert ab.throughput.ratio == 1
    assert ab.figure("generation_time.p95").ratio == pytest.approx(1.5, abs=0.01)
    with pytest.raises(UsageError, match=r"no node of that class ran; classes that ran: KSampler"):
        ab.node_time["VAEDecode"]
    with pytest.raises(UsageError, match=r"^queue: no ratio can be made of nan"):
        _ = ab.figure("queue.p50").ratio


def test_a_throughput_that_falls_is_worse() -> None:
    slow, fast = (tuple(_load(2.0 * noise) for noise in NOISE) for _ in "AB")
    many = tuple(load_of(*[outcome()] * 2, window=(0.0, 60.0)) for _ in NOISE)
    better = ABResult("test", slow, many, gates=("throughput",))
    worse = ABResult("test", many, fast, gates=("throughput",))
    assert (better.verdict, worse.verdict) == (RegressionVerdict.IMPROVED, RegressionVerdict.REGRESSED)


def test_many_failures_are_not_compared() -> None:
    a = tuple(_load(2.0) for _ in range(8))
    b = tuple(load_of(outcome(generation=1.0), failure(OutcomeStatus.OOM), window=(0.0, 60.0)) for _ in range(8))
    ab = ABResult("test", a, b)
    assert ab.verdict is RegressionVerdict.INCONCLUSIVE
    assert ab.sentence() == "Not compared: 50 % of B's prompts failed; the others are not representative."


def test_an_invalid_run_is_the_end_of_it() -> None:
    ab = ABResult("test", (_load(2.0),), (), invalid_because="A of pair 1: the generator was late")
    assert ab.verdict is RegressionVerdict.INCONCLUSIVE
    assert ab.sentence() == "Not judged: A of pair 1: the generator was late."
    assert ab.to_dict()["figures"] == {}


@pytest.mark.parametrize(
    ("bound", "verdict", "settled_by"),
    [(1.3, "pass", None), (1.205, "inconclusive", "about 35 pairs"), (1.1, "fail", None)],
)
def test_what_a_ratio_stands_on(bound: float, verdict: str, settled_by: str | None) -> None:
    judgement = judge(_ab(1.2).generation_time.ratio, "<", bound)
    assert (judgement.verdict, judgement.settled_by) == (verdict, settled_by)


def test_a_ratio_of_few_pairs_is_unsupported() -> None:
    judgement = judge(ABFigure("x", "s", (1.0, 1.0, 1.1), (1.0, 1.1, 1.0)).ratio, "<", 1.05)
    assert judgement.verdict == "unsupported"
    assert judgement.sentence == "1 < 1.05, but 3 pairs are too few for a verdict, which needs 7."
    assert judgement.settled_by == "7 pairs"


def _pictured(seed: int, pixels: str | None, iteration: int = 0, **fields: Any) -> LoadResult:
    file = FetchedFile("9", "images", f"{seed} 1.png", "comfyload/run", "output", 1000, 64, 64, pixels)
    return _load(2.0, outputs=(file,), seeds={"3.seed": seed}, iteration=iteration, **fields)


def test_pictures_of_one_seed_are_pairs() -> None:
    a = (_pictured(7, "same"), _pictured(8, "one"), _pictured(9, None), _pictured(10, "x"), _pictured(11, "x"))
    b = (_pictured(7, "same"), _pictured(8, "other"), _pictured(9, None), _pictured(12, "x"), _pictured(11, "x", 1))
    pairs = ABResult("test", a, b).pictures
    assert [(each.pair, each.seeds, each.identical) for each in pairs] == [
        (1, (7,), True),
        (2, (8,), False),
        (3, (9,), None),
    ]
    assert pairs[0].urls()[0] == ["http://gpu1:8188/view?filename=7+1.png&subfolder=comfyload%2Frun&type=output"]


def test_as_plain_json() -> None:
    plain = json.loads(json.dumps(_ab(1.2).to_dict(), allow_nan=False))
    assert (plain["verdict"], plain["pairs"], plain["gate"]) == ("regressed", 8, "generation_time.p50")
    figure = plain["figures"]["generation_time"]
    assert figure["ratio"] == pytest.approx(1.2, abs=0.005)
    assert figure["B"] / figure["A"] == pytest.approx(figure["ratio"])
    assert not math.isnan(plain["figures"]["throughput"]["ratio"])


NODES = {"txt2img": {"CLIPTextEncode": 2, "KSampler": 2}}


def _worked(encoders: int, samplers: int, **facts: Any) -> LoadResult:
    """Return a load of two prompts, each of which executed this many nodes."""
    ran = [*(f"c{n}" for n in range(encoders)), *(f"k{n}" for n in range(samplers)), "s"]
    classes = {"c": "CLIPTextEncode", "k": "KSampler", "s": "SaveImage"}
    nodes = tuple(NodeInterval(each, classes[each[0]], 1.0, 2.0) for each in ran)
    prompts = [outcome(at, generation=2.0, nodes=nodes) for at in (0.0, 5.0)]
    return load_of(*prompts, window=(0.0, 60.0), **{"nodes": NODES, **facts})


def _compared(halves: list[tuple[LoadResult, LoadResult]], **more: Any) -> ABResult:
    a, b = zip(*halves, strict=True)
    return ABResult("test", a, b, **more)


def test_halves_that_did_other_work_are_not_compared() -> None:
    ab = _compared([(_worked(2, 2), _worked(1, 2))] * 8)
    assert ab.verdict is RegressionVerdict.INCONCLUSIVE
    assert ab.sentence() == (
        "Not compared: A and B did not do the same work: CLIPTextEncode ran 2× per prompt in A, 1× in B."
    )
    # In ABBA order, the second run takes from the cache what both runs have in common.
    turns = [(_worked(1, 2), _worked(1, 1)), (_worked(1, 1), _worked(1, 2))] * 4
    assert _compared(turns).other_work == (
        "KSampler ran 2× per prompt in the first run of each pair, 1× in the second",
    )


def test_the_same_work_what_was_meant_and_what_is_allowed_are_compared() -> None:
    assert _compared([(_worked(2, 2), _worked(2, 2))] * 8).other_work == ()
    one_pass = {"upscaled": {"CLIPTextEncode": 2, "KSampler": 1}}
    of_another = load_of(
        *(outcome(at, generation=2.0, nodes=_worked(2, 1).outcomes[0].nodes, workflow="upscaled") for at in (0.0, 5.0)),
        window=(0.0, 60.0),
        nodes=one_pass,
    )
    assert of_another.executions == {"upscaled": {"CLIPTextEncode": [0, 0, 2], "KSampler": [0, 2]}}
    assert _compared([(_worked(2, 2), of_another)] * 8).other_work == ()
    allowed = [(_worked(2, 2), _worked(1, 2, allow_cached=True))] * 8
    assert _compared(allowed).other_work == ()
    assert ABResult("test", (), ()).other_work == ()
