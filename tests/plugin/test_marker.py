"""Where a mark may be placed, which mark counts, and that one mark is one run."""

from __future__ import annotations

from tests.plugin.suite import Suite

QUICK = 'fetch=False, max_send_lag="30s", warmup=0'


def test_on_a_function_by_either_spelling(suite: Suite, server: str) -> None:
    suite.listen()
    suite.write(
        "test_it.py",
        f"""
        @load_scenario("txt2img", users=2, {QUICK})
        def test_ours(load):
            assert load.success_rate == 100

        @pytest.mark.load_scenario("txt2img", iterations=3, {QUICK})
        def test_pytests(load):
            assert len(load.outcomes) == 3
        """,
    )
    result = suite.run("--comfyui-url", server, "--strict-markers")
    result.assert_outcomes(passed=2)
    runs = suite.run_ids()
    assert [len(runs[name]) for name in ("test_ours", "test_pytests")] == [1, 1]
    assert runs["test_ours"] != runs["test_pytests"]


def test_on_a_class_is_one_run_for_all_its_tests(suite: Suite, server: str) -> None:
    suite.listen()
    suite.write(
        "test_it.py",
        f"""
        @load_scenario("txt2img", users=2, {QUICK})
        class TestTogether:
            def test_one(self, load):
                assert load.success_rate == 100
            def test_two(self, load):
                assert load.oom_errors == 0
            def test_three(self):
                pass
        """,
    )
    result = suite.run("-v", "--comfyui-url", server)
    result.assert_outcomes(passed=3)
    runs = suite.run_ids()
    assert runs["test_one"] == runs["test_two"] == runs["test_three"]
    assert result.stdout.str().count("prompts succeeded") == 1


def test_on_a_module_is_one_run_and_the_nearest_mark_wins(suite: Suite, server: str) -> None:
    suite.listen()
    suite.write(
        "test_it.py",
        f"""
        pytestmark = load_scenario("txt2img", iterations=2, {QUICK})

        def test_module(load):
            assert len(load.outcomes) == 2

        @load_scenario("txt2img", iterations=3, {QUICK})
        class TestClass:
            def test_class(self, load):
                assert len(load.outcomes) == 3

            @load_scenario("txt2img", iterations=1, {QUICK})
            def test_function(self, load):
                assert len(load.outcomes) == 1

            def test_class_again(self, load):
                assert len(load.outcomes) == 3

        def test_module_again(load):
            assert len(load.outcomes) == 2
        """,
    )
    suite.run("--comfyui-url", server).assert_outcomes(passed=5)
    runs = suite.run_ids()
    assert runs["test_module"] == runs["test_module_again"]
    assert runs["test_class"] == runs["test_class_again"]
    assert len({run for ids in runs.values() for run in ids}) == 3


def test_a_derived_class_and_a_parameter_have_marks_of_their_own(suite: Suite, server: str) -> None:
    suite.write(
        "test_it.py",
        f"""
        @load_scenario("txt2img", iterations=3, {QUICK})
        class TestBase:
            iterations = 3
            def test_it(self, load):
                assert len(load.outcomes) == self.iterations

        @load_scenario("txt2img", iterations=2, {QUICK})
        class TestDerived(TestBase):
            iterations = 2

        class TestInherited(TestBase):
            pass

        two = pytest.param(2, marks=load_scenario("txt2img", iterations=2, {QUICK}))

        @load_scenario("txt2img", iterations=1, {QUICK})
        @pytest.mark.parametrize("iterations", [1, two])
        def test_parameter(load, iterations):
            assert len(load.outcomes) == iterations
        """,
    )
    suite.run("--comfyui-url", server).assert_outcomes(passed=5)


def test_a_marked_test_runs_its_load_also_without_asking_for_it(suite: Suite, server: str) -> None:
    suite.listen()
    suite.write(
        "test_it.py",
        f"""
        @load_scenario("txt2img", users=2, {QUICK})
        def test_silent():
            pass
        """,
    )
    suite.run("--comfyui-url", server).assert_outcomes(passed=1)
    (report,) = suite.reports()
    assert report["runs"][0]["prompts"] == 2


def test_param_takes_a_parametrised_argument_and_each_value_is_a_run(suite: Suite, server: str) -> None:
    suite.listen()
    suite.write(
        "test_it.py",
        f"""
        @pytest.mark.parametrize("steps", [2, 4])
        @load_scenario("txt2img", inputs={{"KSampler.steps": param("steps")}}, {QUICK})
        def test_steps(load, steps):
            (outcome,) = load.outcomes
            sampler = next(node for node in outcome.nodes if node.class_type == "KSampler")
            assert sampler.steps[-1][1] == steps

        @load_scenario("txt2img", inputs={{"KSampler.steps": param("nowhere")}}, {QUICK})
        def test_unknown(load):
            pass
        """,
    )
    result = suite.run("--comfyui-url", server)
    result.assert_outcomes(passed=2, errors=1)
    assert result.outlines.count("param('nowhere'): the test is not parametrised by it; parameters: none") == 1
    runs = suite.run_ids()
    assert runs["test_steps[2]"] != runs["test_steps[4]"]


def test_load_without_a_mark_is_one_clear_message(suite: Suite) -> None:
    suite.write("test_it.py", "def test_bare(load): pass")
    result = suite.run()
    result.assert_outcomes(errors=1)
    message = "the `load` fixture needs a load: decorate the test with @load_scenario(...), or use `run_load(...)`"
    assert result.outlines.count(message) == 1
    assert "Traceback" not in result.stdout.str()
    assert "pytest_comfyload" not in result.stdout.str()


def test_the_id_is_the_title_of_the_run(suite: Suite, server: str) -> None:
    suite.write(
        "test_it.py",
        f"""
        @load_scenario("txt2img", id="evening peak", {QUICK})
        def test_it(load):
            pass
        """,
    )
    result = suite.run("-v", "--comfyui-url", server)
    assert "evening peak" in [line.strip() for line in result.outlines]


def test_a_test_that_is_skipped_or_deselected_runs_no_load(suite: Suite, server: str) -> None:
    suite.write(
        "test_it.py",
        f"""
        @pytest.mark.skip
        @load_scenario("txt2img", {QUICK})
        def test_skipped(load):
            pass

        @load_scenario("txt2img", {QUICK})
        def test_deselected(load):
            pass

        def test_other():
            pass
        """,
    )
    result = suite.run("--comfyui-url", server, "-k", "skipped or other")
    result.assert_outcomes(passed=1, skipped=1, deselected=1)
    assert not (suite.folder / ".comfyload").exists()
