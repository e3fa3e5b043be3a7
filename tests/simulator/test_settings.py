from __future__ import annotations

from typing import Any

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.simulator.settings import SimulatorSettings


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"gpu": "rtx409"}, "unknown GPU 'rtx409'; choose one of: rtx4090"),
        ({"models": {"checkpoint": []}}, "unknown model folder 'checkpoint'; choose one of: checkpoints"),
        ({"preview_method": "taesd"}, "preview method 'taesd'"),
        ({"time_scale": 0.0}, "time_scale must be a positive number, not 0.0"),
        ({"time_scale": float("nan")}, "time_scale"),
        ({"devices": 0}, "devices=0 is not supported; give a number from 1 to 16"),
        (
            {"cache": "lru"},
            "cache mode 'lru' is not supported; choose one of: classic, lru=N, ram, none, with N",
        ),
        ({"cache": "lru=0"}, "cache mode 'lru=0'"),
        ({"cache": "ram", "comfyui_version": "0.3.64"}, "ComfyUI 0.3.64 has no RAM-pressure cache"),
        ({"comfyui_version": "0.3.65"}, "unknown ComfyUI version '0.3.65'; choose one of: 0.3.75"),
        ({"keep_pictures": -1}, "keep_pictures"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_nearest_legal_value(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        SimulatorSettings(**bad)
    assert said in str(caught.value)


def test_models_are_added_to_the_stock_or_replace_it() -> None:
    more = {"checkpoints": ["a.safetensors"]}
    assert SimulatorSettings(models=more).models_in("checkpoints")[0] == "a.safetensors"
    assert "sd_xl_base_1.0.safetensors" in SimulatorSettings(models=more).models_in("checkpoints")
    assert SimulatorSettings(models=more, stock_models=False).models_in("checkpoints") == ["a.safetensors"]
    assert SimulatorSettings(stock_models=False).models_in("loras") == []
