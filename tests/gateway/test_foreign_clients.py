"""Third-party clients of ComfyUI get their pictures through a gateway.

    COMFYLOAD_FOREIGN_CLIENTS=1 pytest tests/gateway/test_foreign_clients.py

comfy-api-simplified comes from PyPI, @saintno/comfyui-sdk from npm, each into a folder of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.gateway.serving import FAST, gateway_before
from tests.real_comfyui import build
from tests.simulator.graphs import txt2img
from tests.simulator.serving import serving

pytestmark = pytest.mark.skipif(
    not os.environ.get("COMFYLOAD_FOREIGN_CLIENTS"), reason="COMFYLOAD_FOREIGN_CLIENTS=1 fetches foreign clients"
)

PYPI, NPM = "comfy-api-simplified", "@saintno/comfyui-sdk"
PYPI_CLIENT = """
import sys
from pathlib import Path
from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
url, workflow, folder = sys.argv[1:]
found = ComfyApiWrapper(url).queue_and_wait_images(ComfyWorkflowWrapper(workflow), "Save")
for name, content in found.items():
    (Path(folder) / name).write_bytes(content)
"""


def _python() -> Path:
    def make(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", PYPI], check=True)

    return build.built_once("foreign-pypi", PYPI.encode(), make) / "bin" / "python"


def _cfli() -> Path:
    if shutil.which("npm") is None:
        pytest.skip("needs npm")

    def make(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--prefix", folder, NPM], check=True)

    return build.built_once("foreign-npm", NPM.encode(), make) / "node_modules" / ".bin" / "cfli"


def pypi_client(url: str, workflow: Path, folder: Path) -> Sequence[str | Path]:
    return [_python(), "-c", PYPI_CLIENT, url, workflow, folder]


def npm_client(url: str, workflow: Path, folder: Path) -> Sequence[str | Path]:
    return [_cfli(), "-H", url, "-f", workflow, "-o", folder, "--json", "-d"]


@pytest.mark.parametrize("client", [pypi_client, npm_client])
def test_three_foreign_clients_at_once_get_a_picture_each(
    redis_url: str, tmp_path: Path, client: Callable[[str, Path, Path], Sequence[str | Path]]
) -> None:
    async def one(url: str, number: int) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        graph = txt2img(seed=number, steps=2, width=64, height=64)
        for id, node in graph.items():
            node["_meta"] = {"title": "Save" if id == "9" else id}
        workflow = tmp_path / f"{number}.json"
        workflow.write_text(json.dumps(graph))
        command = await asyncio.to_thread(client, url, workflow, folder)
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=False, timeout=120, cwd=folder
        )
        assert done.returncode == 0, done.stdout + done.stderr

    async def talk() -> None:
        async with AsyncExitStack() as stack:
            workers = [await stack.enter_async_context(serving(FAST)) for _ in range(2)]
            url = await stack.enter_async_context(gateway_before(redis_url, workers))
            await asyncio.gather(*(one(url, number) for number in range(3)))

    asyncio.run(talk())
    pictures = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix == ".png"]
    assert len(set(pictures)) == 3
