"""`servers=` in the marker, on named servers and on embedded ones."""

from __future__ import annotations

from pytest_comfyload.launch.simulator import SimulatorProcess
from tests.plugin.conftest import TIME_SCALE
from tests.plugin.suite import Suite


def test_embedded_simulators_are_as_many_as_are_asked_for(suite: Suite, workers: list[str]) -> None:
    suite.write(
        "test_it.py",
        """
        LOAD = dict(fetch=False, max_send_lag="30s", warmup=0)

        @load_scenario("txt2img", servers=2, users=2, balance="round_robin", **LOAD)
        class TestFarm:
            def test_two(self, load):
                assert len(load.by("server")) == 2
            def test_both_at_work(self, load):
                assert [len(part.outcomes) for part in load.by("server").values()] == [1, 1]

        @load_scenario("txt2img", users=2, **LOAD)
        def test_all_is_one(load):
            assert len(load.by("server")) == 1

        @load_scenario("txt2img", groups={"light": dict(servers=[0]), "heavy": dict(servers=[1])}, **LOAD)
        def test_groups(load):
            (light,), (heavy,) = (load.by("group")[name].by("server") for name in ("light", "heavy"))
            assert light != heavy

        @load_scenario("txt2img", servers=100)
        def test_too_many(load):
            pass

        @load_scenario("txt2img", servers="http://gpu1:8188")
        def test_unnamed(load):
            pass
        """,
    )
    result = suite.run(*workers, "--comfyload-time-scale=100")
    result.assert_outcomes(passed=4, errors=2)
    said = [line for line in result.outlines if "name servers with" in line or "is not one of the servers" in line]
    assert any(line.startswith("the load needs 100 servers, and of the embedded simulator there") for line in said)
    assert any(line.startswith("servers: http://gpu1:8188 is not one of the servers of this run;") for line in said)


def test_named_servers(suite: Suite, server: str, workers: list[str]) -> None:
    with SimulatorProcess(time_scale=TIME_SCALE) as second:
        # Under xdist the first server is busy while the other worker's load runs on it.
        free = [server, second.url] if workers else [server]
        suite.write(
            "test_it.py",
            f"""
            LOAD = dict(fetch=False, max_send_lag="30s", warmup=0)

            @load_scenario("txt2img", servers="{second.url}", **LOAD)
            def test_by_url(load):
                assert set(load.by("server")) == {{"{second.url}"}}

            @load_scenario("txt2img", servers=1, **LOAD)
            def test_the_first_that_is_free(load):
                (used,) = load.by("server")
                assert used in {free}

            @load_scenario("txt2img", servers=3, **LOAD)
            def test_more_than_there_are(load):
                pass
            """,
        )
        result = suite.run(*workers, "--comfyui-url", server, "--comfyui-url", second.url)
    result.assert_outcomes(passed=2, errors=1)
    message = f"servers=3 needs 3 servers, and there is only {server}, {second.url}; name more by repeating --comfyui-"
    assert any(line.startswith(message) for line in result.outlines)


def test_a_capacity_is_searched_on_the_chosen_servers(suite: Suite, server: str) -> None:
    suite.write(
        "test_it.py",
        """
        def test_it(find_capacity):
            find_capacity("txt2img", slo="total_time.p95 < 60", servers=[5])
        """,
    )
    result = suite.run("--comfyui-url", server)
    result.assert_outcomes(failed=1)
    assert any(line.startswith("servers=[5] needs 6 servers") for line in result.outlines)
