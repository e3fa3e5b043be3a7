"""What a server reports as installed: always the sizes of models, and the custom nodes if it has Manager."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pytest_comfyload.simulator.settings import SimulatorSettings
from pytest_comfyload.simulator.vram import file_size
from tests.simulator.talking import talking


def _answer(path: str, **settings: Any) -> tuple[int, Any]:
    async def ask() -> tuple[int, Any]:
        async with (
            talking(SimulatorSettings(**settings)) as server,
            server.session.get(f"{server.url}{path}") as response,
        ):
            return response.status, await response.json() if response.ok else None

    return asyncio.run(ask())


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_files_with_their_sizes(prefix: str) -> None:
    status, files = _answer(f"{prefix}/experiment/models/checkpoints")
    assert status == 200
    assert all(file.keys() == {"name", "pathIndex", "modified", "created", "size"} for file in files)
    sizes = {file["name"]: file["size"] for file in files}
    assert sizes["tiny_sd15.safetensors"] < sizes["v1-5-pruned-emaonly.safetensors"]
    assert sizes["v1-5-pruned-emaonly.safetensors"] < sizes["sd_xl_base_1.0.safetensors"]


def test_a_folder_that_is_none() -> None:
    assert _answer("/experiment/models/nonsense") == (404, None)
    assert file_size("configs", "a.yaml") == 0


def test_custom_nodes_where_manager_is_installed() -> None:
    assert _answer("/customnode/installed?mode=default") == (404, None)
    status, packs = _answer("/customnode/installed", custom_nodes={"my-pack": "0123abc"})
    assert (status, packs) == (
        200,
        {"my-pack": {"ver": "0123abc", "cnr_id": "", "aux_id": None, "enabled": True}},
    )
