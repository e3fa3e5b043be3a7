"""Failures: each kind is counted separately, so that some can be allowed and others not."""

from __future__ import annotations

from pytest_comfyload import LoadResult, load_scenario


@load_scenario("txt2img", users=4, shared_iterations=30, timeout="120s", abort_on_failure_rate=50)
class TestFailures:
    def test_memory(self, load: LoadResult) -> None:
        assert load.oom_errors == 0

    def test_nothing_is_lost(self, load: LoadResult) -> None:
        assert load.errors["lost"] == 0
        assert load.timeouts == 0

    def test_pictures(self, load: LoadResult) -> None:
        assert load.errors["bad_output"] == 0  # files that cannot be decoded
        assert load.blank_outputs == 0  # pictures of one colour
        assert load.errors["partial"] == 0  # prompts that were executed only in part

    def test_success_rate(self, load: LoadResult) -> None:
        assert load.success_rate >= 90  # percent; thirty prompts cannot support more
