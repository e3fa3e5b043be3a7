"""A server that fails now and then: no prompt may be lost without a word, and running out of memory is no option."""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("txt2img", users=4, shared_iterations=60, timeout="120s", abort_on_failure_rate=50)
class TestFailures:
    def test_no_prompt_runs_out_of_memory(self, load: LoadResult) -> None:
        assert load.oom_errors == 0

    def test_no_prompt_is_lost(self, load: LoadResult) -> None:
        assert load.errors["lost"] == 0
        assert load.timeouts == 0

    def test_every_picture_is_one(self, load: LoadResult) -> None:
        assert load.errors["bad_output"] == 0
        assert load.blank_outputs == 0
        assert load.errors["partial"] == 0

    def test_nineteen_of_twenty_succeed(self, load: LoadResult) -> None:
        assert load.success_rate >= 95
