from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_comfyload.workflow.object_info import InputSpec, ObjectInfo, is_whole, spec_of_present
from tests.workflow.graphs import INFO


def test_both_dialects_of_a_combo_are_read() -> None:
    old = INFO.spec("CheckpointLoaderSimple", "ckpt_name")
    new = INFO.spec("LatentBatchSeedBehavior", "seed_behavior")
    assert old == InputSpec("COMBO", ("tiny_sd15.safetensors",), required=True)
    assert new == InputSpec("COMBO", ("random", "fixed"), required=True)


def test_ranges_optional_inputs_and_uploads_are_read() -> None:
    assert INFO.spec("KSampler", "steps") == InputSpec("INT", minimum=1, maximum=10000, required=True)
    vae = INFO.spec("ControlNetApplyAdvanced", "vae")
    assert vae is not None
    assert not vae.required
    assert INFO.spec("LoadImage", "image") == InputSpec("COMBO", (), required=True, upload=True)
    assert INFO.spec("KSampler", "nothing") is None
    assert INFO.specs("NoSuchNode") == {} == ObjectInfo().specs("KSampler")


def test_a_combo_whose_options_only_the_server_knows_takes_anything() -> None:
    spec = INFO.spec("LoadImageOutput", "image")
    assert spec is not None
    assert spec.options is None
    assert spec.choose("whatever.png") == "whatever.png"


@pytest.mark.parametrize("raw", [None, [], {}, "INT", [None], ["INT"], ["INT", None], ["COMBO", {"options": None}]])
def test_odd_declarations_of_custom_nodes_are_survived(raw: Any) -> None:
    spec = ObjectInfo({"Odd": {"input": {"required": {"x": raw}, "optional": None}}}).spec("Odd", "x")
    assert spec is not None
    assert spec.required


@pytest.mark.parametrize("bound", [float("inf"), float("-inf"), float("nan"), 10**400, None, "0", [0], {}, True])
def test_what_is_no_number_bounds_nothing(bound: Any) -> None:
    settings = {"min": bound, "max": bound, "step": bound, "default": bound}
    assert ObjectInfo({"Odd": {"input": {"required": {"x": ["INT", settings]}}}}).spec("Odd", "x") == InputSpec(
        "INT", required=True
    )


@pytest.mark.parametrize("info", [None, [], "x", {"input": None}, {"input": []}, {"input": {"required": ["x"]}}])
def test_a_class_that_declares_nothing_readable_has_no_inputs(info: Any) -> None:
    assert ObjectInfo({"Odd": info}).specs("Odd") == {}
    assert ObjectInfo({"Odd": info}).spec("Odd", "x") is None


@pytest.mark.parametrize("value", [42, 0, -1, "42", " -7 ", "+3", 42.0, 10**400])
def test_whole_numbers_are_told_as_a_server_reads_them(value: Any) -> None:
    assert is_whole(value)


@pytest.mark.parametrize("value", [True, None, "", "4.2", "x", "--5", "0x10", 4.2, float("inf"), [4], "9" * 5000])
def test_nothing_else_is_a_whole_number(value: Any) -> None:
    assert not is_whole(value)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("INT", "20", 20),
        ("INT", "-3", -3),
        ("FLOAT", "7", 7.0),
        ("FLOAT", "7.5", 7.5),
        ("NUMBER", "7", 7),
        ("NUMBER", "7.5", 7.5),
        ("BOOLEAN", "True", True),
        ("BOOLEAN", "off", False),
        ("STRING", "20", "20"),
        ("ANY", "20", 20),
        ("ANY", "true", True),
        ("ANY", "a.b", "a.b"),
        ("ANY", "[1]", "[1]"),
        ("ANY", "NaN", "NaN"),
    ],
)
def test_text_becomes_what_the_input_takes(kind: str, text: str, value: object) -> None:
    converted = InputSpec(kind).convert(text)
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (InputSpec("INT"), "20.5"),
        (InputSpec("INT"), 20.5),
        (InputSpec("INT"), True),
        (InputSpec("INT"), None),
        (InputSpec("FLOAT"), "nan"),
        (InputSpec("FLOAT"), "inf"),
        (InputSpec("FLOAT"), 10**400),
        (InputSpec("BOOLEAN"), "perhaps"),
        (InputSpec("BOOLEAN"), 1),
        (InputSpec("STRING"), 5),
    ],
)
def test_what_does_not_fit_is_a_value_error(spec: InputSpec, value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        spec.convert(value)


def test_options_and_bounds_are_the_servers_to_judge() -> None:
    assert InputSpec("COMBO", ("a", "b")).convert("c") == "c"
    assert InputSpec("COMBO", ()).convert("c") == "c"
    assert InputSpec("INT", minimum=1, maximum=10).convert("11") == 11


def test_a_combo_value_takes_the_servers_spelling_and_type() -> None:
    assert InputSpec("COMBO", ("xl\\base.ckpt",)).convert("xl/base.ckpt") == "xl\\base.ckpt"
    assert InputSpec("COMBO", ("xl/base.ckpt",)).convert("xl\\base.ckpt") == "xl/base.ckpt"
    assert InputSpec("COMBO", (8, 16)).convert("16") == 16


def test_an_upload_may_lie_in_another_folder_than_the_listed_one() -> None:
    spec = InputSpec("COMBO", ("a.png",), upload=True)
    assert spec.convert("masks/b.png") == "masks/b.png"
    assert spec.convert("b.png [output]") == "b.png [output]"
    with pytest.raises(ValueError):  # noqa: PT011
        spec.choose("b.png")


def test_the_legal_values_are_named() -> None:
    assert InputSpec("INT", minimum=1, maximum=10).wants(0) == "wants INT from 1 to 10"
    assert InputSpec("COMBO", ("ddim", "euler")).wants("eulr") == "the server has euler, ddim"
    assert InputSpec("COMBO", ()).wants("x") == "the server has none"


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
def test_a_value_survives_the_way_through_text(value: float | bool) -> None:
    assert spec_of_present(value).convert(str(value)) == value


@given(
    st.sampled_from(["INT", "FLOAT", "BOOLEAN", "STRING", "COMBO", "NUMBER", "ANY", "MODEL"]),
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())),
)
def test_converting_gives_a_value_or_a_value_error(kind: str, value: Any) -> None:
    spec = InputSpec(kind, options=("a", 1), minimum=-5, maximum=5)
    try:
        converted = spec.convert(value)
    except ValueError:
        return
    assert spec.convert(converted) == converted or converted != converted


KINDS = ("INT", "FLOAT", "NUMBER", "STRING", "BOOLEAN", "COMBO", "ANY", "MODEL")
literals = st.one_of(
    st.integers(), st.integers(10**300, 10**310), st.floats(), st.text(max_size=3), st.booleans(), st.none()
)
lists = st.one_of(*(st.lists(each, max_size=4) for each in (st.integers(), st.text(), literals)))


@given(st.sampled_from(KINDS), lists)
def test_values_that_are_taken_as_one_are_taken_one_by_one(kind: str, values: list[Any]) -> None:
    spec = InputSpec(kind, options=("a", "b"), minimum=-3, maximum=5)
    if spec.surely_takes(values):
        for value in values:
            json.dumps(spec.convert(value), allow_nan=False)
    if values and spec.surely_has(values):
        assert all(spec.admits(spec.convert(value)) for value in values)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("INT", 5), ("FLOAT", 5), ("FLOAT", 0.5), ("NUMBER", 5), ("COMBO", "x"), ("STRING", "x"), ("ANY", 5)],
)
def test_many_plain_values_are_taken_in_one_pass(kind: str, value: Any) -> None:
    assert InputSpec(kind).surely_takes([value] * 1000)
    assert not InputSpec(kind).surely_takes([value] * 1000 + [True])
