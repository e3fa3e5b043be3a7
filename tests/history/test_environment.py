"""Runs that may be compared have the same environment, which does not include what users compare."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pytest_comfyload.history.environment import environment_of, fingerprint, subject_of
from pytest_comfyload.history.provenance import Machine
from pytest_comfyload.result.run_facts import Device, GpuFacts, RunFacts, ServerFacts
from tests.history.records import MACHINE, SERVER
from tests.result.outcomes import load_of

CARD = SERVER.devices[0]
GPU = GpuFacts(SERVER.url, "GPU-1", driver="550.54.15", power_limit=450.0)
CPU = dataclasses.replace(SERVER, url="http://127.0.0.1:8188", devices=(Device("cpu", "cpu", 25e9),))


def _facts(*servers: ServerFacts, **different: Any) -> RunFacts:
    told: dict[str, Any] = {"load": "5 users for 10 min", "server_facts": servers or (SERVER,), "gpu_facts": (GPU,)}
    return load_of(**(told | different)).facts


def test_a_gpu_server() -> None:
    assert environment_of(_facts(parameters="a"), MACHINE) == {
        "test": "test_slo",
        "parameters": "a",
        "load": "5 users for 10 min",
        "simulated": False,
        "servers": 1,
        "gpu": "NVIDIA GeForce RTX 4090",
        "gpus": 1,
        "vram": "24 GiB",
        "driver": "550",
    }


def test_a_farm_of_two_kinds() -> None:
    other = dataclasses.replace(SERVER, devices=(Device("cuda:0 NVIDIA L4 : native", "cuda", None),))
    environment = environment_of(_facts(SERVER, SERVER, other), MACHINE)
    assert environment["gpu"] == "2 × NVIDIA GeForce RTX 4090, NVIDIA L4"
    assert (environment["gpus"], environment["servers"]) == (3, 3)
    assert environment["vram"] == "2 × 24 GiB, unknown"


def test_the_branch_of_the_driver_where_it_is_known() -> None:
    newer = dataclasses.replace(GPU, driver="570.1")
    assert environment_of(_facts(gpu_facts=(GPU, GPU)), MACHINE)["driver"] == "550"
    assert environment_of(_facts(gpu_facts=(newer, GPU)), MACHINE)["driver"] == "550, 570"
    for unknown in (None, "", "simulated"):
        gpu = dataclasses.replace(GPU, driver=unknown)
        assert "driver" not in environment_of(_facts(gpu_facts=(gpu,)), MACHINE)


def test_a_cpu_server_on_this_machine_and_elsewhere() -> None:
    here = environment_of(_facts(CPU), MACHINE)
    assert (here["gpu"], here["memory"], here["processor"], here["cores"]) == ("none", "23 GiB", "AMD EPYC 9554", 64)
    elsewhere = environment_of(_facts(dataclasses.replace(CPU, url="http://far:8188")), MACHINE)
    assert "processor" not in elsewhere


def test_nothing_is_known_of_a_run_whose_servers_said_nothing() -> None:
    facts = _facts(server_facts=(), gpu_facts=())
    assert environment_of(facts, None)["servers"] == 1
    assert "gpu" not in environment_of(facts, None)


def _print(facts: RunFacts, machine: Machine = MACHINE) -> str:
    return fingerprint(environment_of(facts, machine))


@pytest.mark.parametrize(
    "different",
    [
        {"title": "another"},
        {"parameters": "b"},
        {"load": "6 users for 10 min"},
        {"time_scale": 20.0},
        {"server_facts": (SERVER, SERVER)},
        {"server_facts": (dataclasses.replace(SERVER, devices=(dataclasses.replace(CARD, memory=48e9),)),)},
        {"server_facts": (dataclasses.replace(SERVER, devices=(dataclasses.replace(CARD, name="NVIDIA L4"),)),)},
    ],
)
def test_what_makes_another_environment(different: dict[str, Any]) -> None:
    assert _print(_facts(**different)) != _print(_facts())


@pytest.mark.parametrize(
    "different",
    [
        {"run_id": "run-2"},
        {"seed": 8},
        {"workflow": "lora", "scenario": "lora, 5 users for 10 min"},
        {"subject": {"KSampler.steps": 6}},
        {"servers": ("http://gpu9:8188",)},
        {"gpu_facts": (dataclasses.replace(GPU, driver="570.1", gpu="GPU-2", power_limit=300.0),)},
        {"server_facts": (dataclasses.replace(SERVER, comfyui="0.4", torch="3", flags=("--lowvram",)),)},
        {"server_facts": (dataclasses.replace(SERVER, devices=(dataclasses.replace(CARD, memory=25.38e9),)),)},
    ],
)  # fmt: skip
def test_what_is_the_same_environment(different: dict[str, Any]) -> None:
    assert _print(_facts(**different)) == _print(_facts())


def test_a_fingerprint_does_not_depend_on_the_order() -> None:
    environment = environment_of(_facts(), MACHINE)
    assert fingerprint(dict(reversed(environment.items()))) == fingerprint(environment)
    assert len(fingerprint(environment)) == 8


def test_the_subject_is_what_is_sent_and_the_programs() -> None:
    facts = _facts(dataclasses.replace(SERVER, flags=("--port", "8188", "--fast", "fp16", "--listen", "--lowvram")))
    facts = dataclasses.replace(facts, subject={"KSampler.steps": 20})
    assert subject_of(facts) == {
        "KSampler.steps": 20,
        "ComfyUI": "0.3.75",
        "torch": "2.9.1+cu128",
        "Python": "3.11.7",
        "flags": "--fast fp16 --lowvram",
        "driver": "550.54.15",
        "power limit": "450 W",
    }


def test_custom_nodes_with_what_is_known_of_them() -> None:
    here = dataclasses.replace(SERVER, custom_nodes={"a": "abc1234", "b": "", "c": "1.2"})
    there = dataclasses.replace(SERVER, custom_nodes={"a": "abc1234", "c": "1.3"})
    used = {"custom node c": "version unknown", "custom node d": "version unknown"}
    subject = subject_of(_facts(here, there, subject=used))
    assert {name: value for name, value in subject.items() if name.startswith("custom node")} == {
        "custom node a": "abc1234",
        "custom node b": ["none", "version unknown"],
        "custom node c": ["1.2", "1.3"],
        "custom node d": "version unknown",
    }


def test_servers_that_differ_are_all_named() -> None:
    other = dataclasses.replace(SERVER, comfyui="0.4.0")
    assert subject_of(_facts(other, SERVER, SERVER))["ComfyUI"] == ["0.3.75", "0.4.0"]
