"""`run_ab` in a suite: its ratios are asserted like any metric, its runs are kept, and the summary shows both sides."""

from __future__ import annotations

from pytest_comfyload.history.store import Store
from tests.plugin.suite import Suite

COMPARING = """
SHAPE = dict(iterations=1, pairs=7, max_send_lag="30s")
STEPS = dict(A={"inputs": {"KSampler.steps": 10}}, B={"inputs": {"KSampler.steps": 40}})

def test_slower(run_ab):
    ab = run_ab("txt2img", **STEPS, **SHAPE)
    assert ab.verdict == "regressed"
    assert ab.generation_time.ratio > 1.2
    assert ab.generation_time.ratio.upper < 1.05

def test_late(run_ab):
    ab = run_ab("txt2img", **STEPS, **{**SHAPE, "max_send_lag": 1e-9})
    assert ab.total_time.ratio < 2

def test_contradiction(run_ab):
    run_ab("txt2img", A={"duration": "1m"}, B={}, iterations=3)
"""


def test_a_comparison_in_a_suite(suite: Suite, server: str, workers: list[str]) -> None:
    suite.write("test_it.py", COMPARING)
    suite.listen()
    result = suite.run("--comfyui-url", server, "-rN", *workers)
    result.assert_outcomes(failed=3)
    result.stdout.re_match_lines_random(
        [
            r"test_slower: B against A, SIMULATED: regressed",
            r"  B is worse: generation_time\.p50 ×[\d.]+ \([\d.]+–[\d.]+, 7 pairs\); limit 5 %\.",
            r"  generation_time +[\d.]+ s +[\d.]+ s  ×[\d.]+ \([\d.]+–[\d.]+\)",
            r"  changed: KSampler\.steps 10 → 40",
            r"  generation_time\.ratio > 1\.2 .* pass",
            r"  generation_time\.ratio\.upper < 1\.05 .* FAIL",
            r"SLO violated: generation_time\.ratio\.upper .* < 1\.05 \(n=7\)",
            r"Not judged: A of pair 1: the generator was late .*",
            r"  ab\.total_time\.ratio < 2 .* not reached",
            r"A: duration='1m' and iterations=3 contradict each other.*",
        ]
    )
    # The invalid run belongs to the test; the runs of a comparison are its sides.
    assert {name: len(runs) for name, runs in suite.run_ids().items()} == {"test_slower": 0, "test_late": 1}
    assert all(report["aliens"] == [] for report in suite.reports())
    titles = [row.test for row in Store.open(suite.folder / ".comfyload").runs()]
    assert sorted(set(titles)) == [
        "test_it.py::test_late, A",
        "test_it.py::test_slower, A",
        "test_it.py::test_slower, B",
    ]
    assert len(titles) == 15
    # The sides are not listed: each is judged against the other, not against earlier runs.
    assert not any("test_slower, A" in line for line in result.outlines if not line.startswith("comfyload: "))


TWO_SERVERS = """
def test_servers(run_ab):
    ab = run_ab(
        "txt2img", A={"servers": [0]}, B={"servers": [1]}, iterations=1, pairs=2, max_send_lag="30s", id="mine"
    )
    assert ab.A[0].facts.servers != ab.B[0].facts.servers
    assert ab.generation_time.ratio < 100
"""


def test_two_servers_and_the_duration_before_it_begins(suite: Suite) -> None:
    suite.write("test_it.py", TWO_SERVERS)
    result = suite.run("--comfyload-time-scale=100", "--comfyload-verdict=confident", "-rN")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines_random(
        [
            r"comfyload: mine: 2 pairs of runs, .*; A: servers=\[0\]; B: servers=\[1\]; always inconclusive: 2 .*",
            r"comfyload: mine, A, run 1 of 4: .* expected .*; 4 such runs \d+ s and their warm-ups",
            r"comfyload: mine: pair 1 of 2: generation_time\.p50 A [\d.]+ s, B [\d.]+ s; about \d+ s left",
            r"  changed: servers http://127.* → http://127.*",
            r"SLO unsupported: generation_time\.ratio .*",
            r".*2 pairs are too few for a verdict, which needs 7\.",
        ]
    )


def test_the_servers_of_both_sides_are_named_in_the_call(suite: Suite, server: str) -> None:
    suite.write(
        "test_it.py",
        f"""
def test_steps(run_ab):
    sides = dict(A={{"inputs": {{"KSampler.steps": 4}}}}, B={{"inputs": {{"KSampler.steps": 5}}}})
    ab = run_ab("txt2img", **sides, servers=[{server!r}], pairs=2, iterations=1, max_send_lag="30s")
    assert ab.pairs == 2
""",
    )
    suite.run("--comfyui-url", server).assert_outcomes(passed=1)
