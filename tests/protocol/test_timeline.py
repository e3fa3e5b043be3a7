from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.protocol.bodies import HistoryEntry
from pytest_comfyload.protocol.events import (
    Event,
    Executed,
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
    NodeProgress,
    Preview,
    Progress,
    ProgressState,
)
from pytest_comfyload.protocol.prompt_state import PromptState, Stage
from pytest_comfyload.protocol.timeline import NodeInterval, Timeline
from tests.protocol.recordings import VERSIONS, RecordedPrompt, cases, prompts

# Stamps are seconds since the epoch: a float resolves them to 2.4e-7 s.
TOLERANCE = 1e-5
PHASES = ("submit_time", "queue_time", "generation_time", "delivery_time", "fetch_time")
ENDS: tuple[type[Event], ...] = (ExecutionSuccess, ExecutionError, ExecutionInterrupted)

# Our own prompt ids are never executed twice, unlike those of "duplicate_prompt_id".
PROMPTS = {
    f"{version}-{case}-{index}": prompt
    for version in VERSIONS
    for case in cases(version)
    if case != "duplicate_prompt_id"
    for index, prompt in enumerate(prompts(version, case))
    if prompt.ends_in(*ENDS)
}


def each(chosen: Callable[[RecordedPrompt], bool]) -> pytest.MarkDecorator:
    cases = {name: prompt for name, prompt in PROMPTS.items() if chosen(prompt)}
    return pytest.mark.parametrize("prompt", cases.values(), ids=cases.keys())


every_prompt = each(lambda prompt: True)


def one(version: str, case: str) -> RecordedPrompt:
    [prompt] = prompts(version, case)
    return prompt


def test_there_are_prompts_of_both_versions() -> None:
    assert len(PROMPTS) >= 40


# --- recorded prompts ---


@every_prompt
def test_phases_of_a_recorded_prompt(prompt: RecordedPrompt) -> None:
    timeline = prompt.state().timeline(prompt.sent - 0.25, prompt.offset())
    assert timeline.send_lag == pytest.approx(0.25)
    length = prompt.stamp(*ENDS) - prompt.stamp(ExecutionStart)
    assert timeline.generation_time == pytest.approx(length, abs=TOLERANCE)
    assert all((getattr(timeline, phase) or 0.0) >= -TOLERANCE for phase in PHASES)
    if prompt.history is not None and prompt.history.create_time is not None:
        waited = prompt.stamp(ExecutionStart) - prompt.history.create_time
        assert timeline.queue_time == pytest.approx(waited, abs=TOLERANCE)


@every_prompt
@given(
    offset_error=st.floats(-1e4, 1e4),
    answered=st.floats(0, 10),
    fetch=st.floats(0, 100),
    lag=st.floats(0, 10),
    scale=st.sampled_from([1.0, 20.0]),
)
def test_phases_sum_to_the_total_whatever_the_clocks_say(
    prompt: RecordedPrompt,
    offset_error: float,
    answered: float,
    fetch: float,
    lag: float,
    scale: float,
) -> None:
    state = prompt.state(answered=prompt.sent + answered)
    timeline = state.timeline(prompt.sent - lag, prompt.offset() + offset_error, scale)
    assert timeline.accepted is not None
    assert prompt.sent - TOLERANCE <= timeline.accepted <= prompt.sent + answered + TOLERANCE
    assert timeline.generation_time == pytest.approx(prompt.stamp(*ENDS) - prompt.stamp(ExecutionStart), abs=TOLERANCE)
    if prompt.history is not None and prompt.history.create_time is not None:
        waited = prompt.stamp(ExecutionStart) - prompt.history.create_time
        assert timeline.queue_time == pytest.approx(waited, abs=TOLERANCE)
    if state.stage is not Stage.SUCCEEDED:
        assert timeline.delivered is None
        assert timeline.total_time is None
        return
    assert timeline.delivered is not None
    whole = dataclasses.replace(timeline, fetched=timeline.delivered + fetch)
    phases = [getattr(whole, phase) for phase in PHASES]
    assert min(phases) >= -TOLERANCE
    assert whole.total_time == pytest.approx(whole.send_lag + sum(phases), abs=TOLERANCE)
    assert whole.send_lag == pytest.approx(lag / scale, abs=TOLERANCE)


@every_prompt
@given(seed=st.integers(0, 2**32))
def test_order_and_repetition_do_not_matter(prompt: RecordedPrompt, seed: int) -> None:
    rng = random.Random(seed)
    events = [event for _, event in prompt.events]
    events += rng.choices(events, k=rng.randrange(len(events)))
    rng.shuffle(events)
    without_history = dataclasses.replace(prompt, history=None)
    # An event may be seen later than it happened, but not earlier, which would void its stamp.
    last = prompt.events[-1][0]
    arrivals = [(last + 0.001 * position, event) for position, event in enumerate(events)]
    shuffled, straight = without_history.state(order=arrivals), without_history.state()
    assert facts(shuffled) == facts(straight)
    offset = prompt.offset()
    for times in ("generation_time", "accepted", "started", "ended"):
        got, expected = (getattr(state.timeline(0.0, offset), times) for state in (shuffled, straight))
        assert got == pytest.approx(expected, abs=TOLERANCE)


def facts(state: PromptState) -> tuple[object, ...]:
    return state.stage, state.closed, state.cached, state.outputs, state.error


@each(lambda prompt: prompt.history is not None)
def test_history_alone_tells_how_a_prompt_ended(prompt: RecordedPrompt) -> None:
    heard, deaf = prompt.state(), dataclasses.replace(prompt, events=()).state()
    assert (deaf.stage, deaf.cached, deaf.closed) == (heard.stage, heard.cached, True)
    assert deaf.outputs == heard.outputs
    generation_time = deaf.timeline(0.0, prompt.offset()).generation_time
    assert generation_time == pytest.approx(prompt.stamp(*ENDS) - prompt.stamp(ExecutionStart), abs=TOLERANCE)


@every_prompt
def test_node_intervals_lie_within_the_execution(prompt: RecordedPrompt) -> None:
    state = prompt.state()
    arrivals = [at for at, _ in prompt.events]
    for node in state.timeline(0.0, prompt.offset()).nodes:
        assert node.class_type == prompt.graph[node.node_id]["class_type"]
        assert node.node_id not in state.cached
        assert min(arrivals) <= node.start <= node.end <= max(arrivals)
        assert list(node.steps) == sorted(node.steps)
        assert all(node.start <= at <= node.end + TOLERANCE for at, _ in node.steps)
        rate = node.steps_per_second
        assert rate is None or rate > 0


@each(lambda prompt: prompt.ends_in(ExecutionSuccess))
def test_every_node_either_ran_or_was_cached(prompt: RecordedPrompt) -> None:
    state = prompt.state()
    ran = {node.node_id for node in state.timeline(0.0, prompt.offset()).nodes}
    assert ran | state.cached == prompt.graph.keys()
    assert not ran & state.cached


@pytest.mark.parametrize("version", VERSIONS)
def test_where_the_time_of_a_picture_goes(version: str) -> None:
    prompt = one(version, "txt2img_warm")
    nodes = {node.class_type: node for node in prompt.state().timeline(0.0, prompt.offset()).nodes}
    assert set(nodes) == {"KSampler", "VAEDecode", "SaveImage"}
    sampler = nodes["KSampler"]
    assert 0.5 < sampler.duration < 4
    assert [value for _, value in sampler.steps] == [1, 2, 3, 4]
    (first, _), (last, _) = sampler.steps[0], sampler.steps[-1]
    assert sampler.steps_per_second == pytest.approx(3 / (last - first))
    assert nodes["VAEDecode"].steps_per_second is None
    heard_of = prompt.events[-1][0] - prompt.events[0][0]
    assert sum(node.duration for node in nodes.values()) == pytest.approx(heard_of, rel=0.05)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_cached_prompt_ran_no_node(version: str) -> None:
    prompt = one(version, "txt2img_cached")
    state = prompt.state()
    assert state.stage is Stage.SUCCEEDED
    assert state.cached == prompt.graph.keys()
    assert state.timeline(0.0, prompt.offset()).nodes == ()
    assert state.outputs["9"]["images"]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_interrupted_prompt(version: str) -> None:
    prompt = one(version, "interrupted")
    state = prompt.state()
    assert (state.stage, state.stage.over, state.closed) == (Stage.INTERRUPTED, True, True)
    assert isinstance(state.error, ExecutionInterrupted)
    assert state.error.node_type == "ProbeSleep"
    timeline = state.timeline(0.0, prompt.offset())
    [node] = timeline.nodes
    assert node.class_type == "ProbeSleep"
    assert node.duration == pytest.approx(timeline.generation_time, abs=0.05)
    assert timeline.delivered is None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("case", "exception", "node_type"),
    [
        ("execution_error_value", "ValueError", "ProbeFail"),
        ("execution_error_oom", "torch.OutOfMemoryError", "ProbeOOM"),
    ],
)
def test_a_failed_prompt(version: str, case: str, exception: str, node_type: str) -> None:
    prompt = one(version, case)
    state = prompt.state()
    assert (state.stage, state.stage.over) == (Stage.FAILED, True)
    assert isinstance(state.error, ExecutionError)
    assert (state.error.exception_type, state.error.node_type) == (exception, node_type)
    timeline = state.timeline(0.0, prompt.offset())
    assert [node.class_type for node in timeline.nodes] == ["ProbeSleep", node_type]
    assert timeline.total_time is None


@pytest.mark.parametrize("answer_after", [0.0, 0.002, 1.0])
def test_without_create_time_accepted_is_the_earlier_of_answer_and_start(answer_after: float) -> None:
    prompt = one("0.3.64", "txt2img_warm")
    answered = prompt.sent + answer_after
    timeline = prompt.state(answered=answered).timeline(0.0, prompt.offset())
    started = prompt.stamp(ExecutionStart) + prompt.offset()
    assert timeline.accepted == pytest.approx(min(answered, started), abs=TOLERANCE)
    assert timeline.queue_time == pytest.approx(max(0.0, started - answered), abs=TOLERANCE)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_prompt_in_the_queue_waits_for_the_one_before_it(version: str) -> None:
    waits = []
    for prompt in prompts(version, "queue_front_and_number"):
        waits.append(prompt.state().timeline(0.0, prompt.offset()).queue_time)
    assert all(wait is not None for wait in waits)
    assert max(wait or 0.0 for wait in waits) > 1.0


# --- hand-written prompts ---


def state() -> PromptState:
    made = PromptState("p", {"3": "KSampler", "9": "SaveImage"})
    made.send(1.0)
    return made


def test_a_prompt_that_was_never_sent_has_no_timeline() -> None:
    with pytest.raises(ValueError, match="never sent"):
        PromptState("p", {}).timeline(0.0, None)


def test_stages_never_go_back() -> None:
    made = PromptState("p", {})
    stages = [made.stage]
    made.send(1.0)
    stages.append(made.stage)
    made.apply(Progress("p", "3", 1.0, 4.0), 1.5)
    stages.append(made.stage)
    made.answer(2.0)
    stages.append(made.stage)
    made.apply(ExecutionSuccess("p", 102.0), 2.5)
    made.apply(ExecutionStart("p", 101.0), 2.6)
    stages.append(made.stage)
    assert stages == [Stage.CREATED, Stage.SENT, Stage.RUNNING, Stage.RUNNING, Stage.SUCCEEDED]


def test_events_before_the_answer_are_kept() -> None:
    made = state()
    made.apply(ExecutionStart("p", 101.1), 1.11)
    made.apply(ExecutionCached("p", 101.1, ("9",)), 1.11)
    made.apply(ExecutionSuccess("p", 101.3), 1.31)
    made.answer(1.4)
    timeline = made.timeline(1.0, -100.0)
    assert (made.stage, made.cached, made.started_at) == (Stage.SUCCEEDED, frozenset({"9"}), 1.11)
    assert timeline.submit_time == pytest.approx(0.1)
    assert timeline.queue_time == 0.0
    assert timeline.generation_time == pytest.approx(0.2)


def test_a_picture_that_comes_by_the_socket_is_of_the_node_at_work() -> None:
    prompt = state()
    png, other = b"\x89PNG one", b"\x89PNG two"
    prompt.apply(Executing("p", "9"), 1.0)
    for event in (Preview(9, png=png), Preview(4), Preview(9, "p", "7", other)):
        prompt.apply(event, 1.5)
    prompt.apply(ExecutionSuccess("p", 2.0), 2.0)
    prompt.apply(Preview(9, png=png), 2.5)
    assert prompt.pictures == [("9", png), ("7", other)]


def test_a_blocked_branch_is_no_end() -> None:
    made = state()
    made.apply(ExecutionError("p", 101.0, "9", "SaveImage", "ExecutionBlocked", "x"), 1.5)
    assert (made.stage, made.error) == (Stage.SENT, None)
    made.apply(ExecutionSuccess("p", 102.0), 2.0)
    assert made.stage is Stage.SUCCEEDED


def test_events_after_the_end_change_neither_error_nor_nodes() -> None:
    made = state()
    made.apply(ExecutionStart("p", 101.0), 1.1)
    made.apply(Executing("p", "3"), 1.2)
    made.apply(ExecutionError("p", 102.0, "3", "KSampler", "ValueError", "first"), 2.1)
    before = made.timeline(1.0, -100.0)
    made.apply(ExecutionError("p", 103.0, "3", "KSampler", "ValueError", "second"), 3.1)
    made.apply(Executing("p", "9"), 3.2)
    made.apply(Progress("p", "3", 1.0, 4.0), 3.3)
    assert made.timeline(1.0, -100.0) == before
    assert isinstance(made.error, ExecutionError)
    assert made.error.exception_message == "first"


def test_a_prompt_is_closed_by_the_message_that_names_no_node() -> None:
    made = state()
    made.apply(ExecutionSuccess("p", 102.0), 2.0)
    assert not made.closed
    made.apply(Executing("p", None), 2.1)
    assert made.closed


def test_a_started_prompt_has_its_waiting_time_before_it_ends() -> None:
    made = state()
    made.answer(1.1)
    made.apply(ExecutionStart("p", 103.0), 3.0)
    timeline = made.timeline(1.0, -100.0)
    assert timeline.queue_time == pytest.approx(1.9)
    assert timeline.generation_time is None
    assert timeline.total_time is None


def test_outputs_that_only_the_history_knows_are_delivered_with_it() -> None:
    made = state()
    made.answer(1.1)
    made.apply(ExecutionStart("p", 101.2), 1.2)
    made.apply(ExecutionSuccess("p", 101.3), 1.3)
    made.apply_history(HistoryEntry("p", {"9": {"images": []}}, (), None), 1.6)
    assert made.outputs == {"9": {"images": []}}
    assert made.timeline(1.0, -100.0).delivery_time == pytest.approx(0.3)


def test_outputs_of_the_socket_stay_when_the_history_is_read() -> None:
    made = state()
    made.apply(Executed("p", "9", {"images": [1]}), 1.2)
    made.apply(ExecutionSuccess("p", 101.3), 1.3)
    made.apply_history(HistoryEntry("p", {"9": {"images": [2]}}, (), None), 1.6)
    assert made.outputs == {"9": {"images": [1]}}


def test_a_node_that_the_server_announced_before_the_cached_ones_did_not_run() -> None:
    made = state()
    made.apply(ProgressState("p", (NodeProgress("9", 1.0, 1.0, "finished"),)), 1.2)
    made.apply(ExecutionCached("p", 101.0, ("9",)), 1.3)
    made.apply(ExecutionSuccess("p", 101.3), 1.4)
    assert made.timeline(1.0, -100.0).nodes == ()


def test_async_nodes_overlap() -> None:
    made = state()
    made.apply(Executing("p", "3"), 1.0)
    made.apply(Executing("p", "9"), 1.2)
    made.apply(ProgressState("p", (NodeProgress("9", 1.0, 1.0, "finished"),)), 1.5)
    made.apply(ProgressState("p", (NodeProgress("3", 1.0, 1.0, "finished"),)), 1.9)
    made.apply(ExecutionSuccess("p", 101.3), 2.5)
    assert made.timeline(1.0, -100.0).nodes == (
        NodeInterval("3", "KSampler", 1.0, 1.9),
        NodeInterval("9", "SaveImage", 1.2, 1.5),
    )


def test_steps_per_second_counts_values_and_not_messages() -> None:
    throttled = NodeInterval("3", "KSampler", 0.0, 10.0, ((1.0, 1.0), (4.0, 9.0), (6.0, 21.0)))
    assert throttled.steps_per_second == 4.0
    assert NodeInterval("3", "KSampler", 0.0, 10.0, ((1.0, 1.0),)).steps_per_second is None
    assert NodeInterval("3", "KSampler", 0.0, 10.0, ((1.0, 1.0), (1.0, 2.0))).steps_per_second is None


def test_a_timeline_of_a_rejected_prompt_knows_its_lag_only() -> None:
    timeline = state().timeline(0.5, None)
    assert timeline == Timeline(send_lag=0.5, sent=1.0)


def test_steps_and_nodes_without_end_are_held_within_limits() -> None:
    made = state()
    made.apply(ExecutionStart("p", 101.0), 1.0)
    for number in range(110_000):
        made.apply(Progress("p", "3", float(number), 4.0), 1.0 + number)
        made.apply(Executing("p", f"{number}"), 1.0 + number)
    made.apply(ExecutionSuccess("p", 102.0), 200_000.0)
    nodes = made.timeline(1.0, -100.0).nodes
    assert len(nodes) == 10_000
    (sampler,) = [node for node in nodes if node.node_id == "3"]
    assert (sampler.steps[0][1], sampler.steps[-1][1]) == (0.0, 109_999.0)
    assert sum(len(record.steps) for record in made._nodes.values()) <= 100_000
