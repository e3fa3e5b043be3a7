from __future__ import annotations

import pytest

from pytest_comfyload.simulator.vram import SD15, SDXL, TINY, Family, family_of


@pytest.mark.parametrize(
    ("file", "family"),
    [
        ("sd_xl_base_1.0.safetensors", SDXL),
        ("ponyDiffusionV6.safetensors", SDXL),
        ("v1-5-pruned-emaonly.safetensors", SD15),
        ("tiny_sd15.safetensors", TINY),
    ],
)
def test_a_name_tells_the_family(file: str, family: Family) -> None:
    assert family_of(file) is family
