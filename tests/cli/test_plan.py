"""`comfyload plan` as a person types it: with a GPU's rule of thumb, a stored run, a trace, and with mistakes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pytest_comfyload.cli import app
from pytest_comfyload.errors import ComfyloadError
from pytest_comfyload.history.provenance import Provenance
from pytest_comfyload.history.record import record_of
from pytest_comfyload.history.store import Store
from pytest_comfyload.metrics.arrival_trace import arrival_line, gap_line, header_line
from tests.result.outcomes import load_of, outcome


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments])


def refusal(*arguments: str) -> str:
    result = plan(*arguments)
    assert isinstance(result.exception, ComfyloadError), result.output
    return str(result.exception)


PEOPLE = ("--people", "10", "--images-per-day", "100")


def test_a_rule_of_thumb_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = plan(*PEOPLE, "--gpu", "rtx3090", "--strategy", "queue")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(
        "2 × NVIDIA GeForce RTX 3090 (one queue) can serve 10 people (100 images a day): p95 "
    )
    for said in (
        "one queue, people in turn",
        "not measured",
        "four at once: 2",
        "RTX 5090: unknown: measure one run",
    ):
        assert said in result.output


def test_a_stored_run_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.open(tmp_path / ".comfyload")
    load = load_of(*[outcome(10.0 * k, generation=4 + k % 3) for k in range(30)], run_id="20260131T000001-0123abcd")
    store.add(record_of(load, Provenance(session="s")))
    people = ("--people", "200", "--images-per-day", "2000")
    result = plan(*people, "--from-run", "latest", "--strategy", "queue", "--json", "--html", "plan.html")
    assert result.exit_code == 0, result.output
    assert result.stderr == "written: plan.html\n"
    assert 'id="plan-data"' in Path("plan.html").read_text(encoding="utf-8")
    answer = json.loads(result.stdout)
    assert "30 prompts of" in answer["stands_on"][0]
    assert "mean 5 s, run 20260131T000001-0123abcd" in answer["stands_on"][0]
    assert answer["rows"][0]["evaluation"]["gpus"] == 1
    assert answer["rows"][0]["evaluation"]["p50"] == pytest.approx(6, abs=2)
    assert [each["gpus"] for each in answer["curves"]] == [1, 2]
    assert (
        "repeat --from-run with a run on another GPU"
        in plan(*people, "--from-run", "latest", "--strategy", "vertical").output
    )


def test_of_several_scenarios_one_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.open(tmp_path / ".comfyload")
    for number, name in enumerate(("test_fast", "test_slow"), 1):
        made = [outcome(10.0 * k, generation=3.0 * number) for k in range(30)]
        load = load_of(*made, title=name, run_id=f"2026013{number}T000001-0123abcd")
        store.add(record_of(load, Provenance(session="s")))
    several = refusal(*PEOPLE, "--from-run", "latest", "--strategy", "queue")
    assert "2 scenarios have such a run: " in several
    assert "choose one with --scenario" in several
    said = plan(*PEOPLE, "--from-run", "latest", "--scenario", "fast", "--strategy", "queue").output
    assert "mean 3 s, run 20260131T000001" in said


def test_a_simulated_or_invalid_run_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = [outcome(10.0 * k) for k in range(30)]
    load = load_of(*made, run_id="20260131T000001-0123abcd", time_scale=20.0, invalid="it was cut off")
    Store.open(tmp_path / ".comfyload").add(record_of(load, Provenance(session="s")))
    said = plan(*PEOPLE, "--from-run", "latest", "--strategy", "queue").output
    assert "simulated server (one queue)" in said
    assert "that run is invalid: it was cut off" in said


def test_too_few_prompts_for_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.open(tmp_path / ".comfyload")
    store.add(record_of(load_of(outcome(0.0), run_id="20260131T000001-0123abcd"), Provenance(session="s")))
    assert "1 warm prompt of" in refusal(*PEOPLE, "--from-run", "latest")


def test_a_trace_takes_the_place_of_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [header_line(datetime(2026, 11, 2, tzinfo=UTC), 86_400.0)]
    lines += [arrival_line(20.0 * k, "w") for k in range(4000)]
    Path("day.jsonl").write_text("".join(lines), encoding="utf-8")
    result = plan("--trace", "day.jsonl", "--gpu", "rtx3090", "--strategy", "queue", "--growth", "1.5")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("2 × NVIDIA GeForce RTX 3090 (one queue) can serve the arrivals of trace day.jsonl")
    assert "as recorded" in result.output
    assert "20 % more prompts" in result.output
    half = plan("--trace", "day.jsonl", "--window", "0h..12h", "--gpu", "rtx3090", "--strategy", "queue", "--json")
    assert "2160 prompts" in " ".join(json.loads(half.output)["stands_on"])
    assert "--trace has its own prompts" in refusal("--trace", "day.jsonl", "--gpu", "a100", "--images-per-day", "5")


def test_the_gpu_file_is_written_once_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan("--write-gpus", "gpus.toml").output == "written: gpus.toml\n"
    assert "the file already exists" in refusal("--write-gpus", "gpus.toml")
    file = Path("gpus.toml")
    file.write_text(file.read_text().replace("images_per_minute = [2, 4]", "images_per_minute = [10, 10]"))
    result = plan(*PEOPLE, "--gpu", "rtx3090", "--gpus", "gpus.toml", "--strategy", "queue")
    assert result.output.startswith("1 × NVIDIA GeForce RTX 3090")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--people", "-3", "--images-per-day", "5", "--gpu", "a100"), "--people -3: give 1 to"),
        (("--people", "3", "--images-per-day", "-5", "--gpu", "a100"), "--images-per-day -5: give more than 0"),
        (("--people", "3", "--gpu", "a100"), "give one of --images-per-day"),
        (("--images-per-day", "3", "--gpu", "a100"), "--people is missing"),
        ((*PEOPLE, "--gpu", "rtx4091"), "--gpu 'rtx4091' is not in the GPU file: rtx4090"),
        ((*PEOPLE, "--gpu", "h100"), "unknown: how long an image takes on NVIDIA H100"),
        (PEOPLE, "give --from-run REF"),
        ((*PEOPLE, "--gpu", "a100", "--from-run", "latest"), "contradict each other"),
        ((*PEOPLE, "--gpu", "a100", "--day", "offices"), "--day 'offices' is not a profile: office"),
        ((*PEOPLE, "--gpu", "a100", "--day", "short.csv"), "short.csv has 23 numbers; a day profile has 24"),
        ((*PEOPLE, "--gpu", "a100", "--work", "hard"), "legal: sessions, one, and N-at-once"),
        ((*PEOPLE, "--gpu", "a100", "--slo", "soon"), "slo: 'soon' cannot be parsed"),
        ((*PEOPLE, "--gpu", "a100", "--mix", "sdxl=x"), "'sdxl=x' is not name=weight"),
        ((*PEOPLE, "--gpu", "a100", "--mix", "sdxl"), "no workload 'sdxl' in the GPU file"),
        ((*PEOPLE, "--gpu", "h100", "--mix", "sdxl-1024-50"), "has figures of it for a100"),
        ((*PEOPLE, "--gpu", "a100", "--growth", "-1"), "--growth -1: give a factor above 0"),
        ((*PEOPLE, "--gpu", "a100", "--on-days", "101"), "--on-days 101"),
        ((*PEOPLE, "--gpu", "a100", "--cold-start", "soon"), "--cold-start='soon' is not a duration"),
        ((*PEOPLE, "--gpu", "a100", "--gpus", "none.toml"), "none.toml: no such file"),
        (("--trace", "none.jsonl", "--gpu", "a100"), "there is no such file"),
        (("--trace", "hole.jsonl", "--gpu", "a100"), "has a gap from 10.0 s to 20.0 s"),
    ],
)
def test_one_line_for_each_mistake(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.csv").write_text("4," * 22 + "4", encoding="utf-8")
    lines = [header_line(datetime(2026, 11, 2, tzinfo=UTC), 100.0), arrival_line(1.0, "w"), gap_line(10.0, 20.0)]
    Path("hole.jsonl").write_text("".join(lines), encoding="utf-8")
    said = refusal(*arguments)
    assert message in said
    assert "\n" not in said
