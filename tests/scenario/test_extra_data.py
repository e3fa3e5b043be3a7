from __future__ import annotations

from typing import Any

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.redaction import redacted
from pytest_comfyload.scenario.extra_data import api_keys, read_extra_data
from pytest_comfyload.scenario.scenario import Scenario

KEY = "comfyui-0123456789"


def test_what_is_given_is_taken_as_it_is() -> None:
    given: dict[str, Any] = {"extra_pnginfo": {"workflow": {"nodes": []}}, "style": None}
    assert read_extra_data(given) == given
    assert read_extra_data(None) == {}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([KEY], "not a dict of text to value"),
        ({1: KEY}, "not a dict of text to value"),
        ({"comfyload": KEY}, "the key 'comfyload' is taken"),
        ({"api_key": KEY, "x": object()}, "a value that JSON cannot represent; its keys are api_key, x"),
        ({"api_key": KEY, "x": float("nan")}, "a value that JSON cannot represent"),
        ({"api_key": KEY, "x": "\ud800"}, "a value that JSON cannot represent"),
    ],
)
def test_a_refusal_does_not_show_the_values(given: Any, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_extra_data(given)
    assert says in str(caught.value)
    assert KEY not in str(caught.value)


def test_api_keys_come_from_the_environment() -> None:
    environ = {"COMFYUI_API_KEY_COMFY_ORG": f" {KEY} ", "COMFYUI_AUTH_TOKEN_COMFY_ORG": "", "OTHER": "x"}
    assert api_keys(environ) == {"api_key_comfy_org": KEY}


def test_secrets_are_taken_out_of_texts() -> None:
    extra_data = {"api_key_comfy_org": KEY, "nested": [{"auth": {"password": f"{KEY}-long"}}], "token": "short"}
    text = f"Unauthorized: {KEY}-long and {KEY} are refused; a short token"
    read_extra_data({"extra_pnginfo": KEY})
    assert redacted(text) == text
    read_extra_data(extra_data)
    assert redacted(text) == "Unauthorized: … and … are refused; a short token"


def test_a_scenario_does_not_show_its_extra_data() -> None:
    scenario = Scenario.build("txt2img", extra_data={"api_key_comfy_org": KEY})
    assert scenario.extra_data == {"api_key_comfy_org": KEY}
    assert KEY not in f"{scenario} {scenario!r}"


def test_groups_share_extra_data_or_have_their_own() -> None:
    groups = {"a": {"users": 1}, "b": {"users": 1, "extra_data": {"y": 2}}}
    built = Scenario.build("txt2img", groups=groups, extra_data={"x": 1}).groups
    assert (built["a"].extra_data, built["b"].extra_data) == ({"x": 1}, {"y": 2})
