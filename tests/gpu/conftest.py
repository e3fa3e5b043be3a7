"""The stand-in for NVIDIA's library, built once per session; its script is empty at the start of each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.gpu.nvml_stub import StubProcess, build, opens, stub_process


@pytest.fixture(scope="session")
def _shared_stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubProcess]:
    folder = tmp_path_factory.mktemp("nvml")
    build(folder)
    with stub_process(folder) as stub:
        yield stub


@pytest.fixture
def stub(_shared_stub: StubProcess) -> Iterator[StubProcess]:
    """A driver with all functions; every test must leave the library closed."""
    _shared_stub.script()
    yield _shared_stub
    assert _shared_stub(opens) == (0, 0)


@pytest.fixture
def stub_without(tmp_path: Path) -> Iterator[Callable[..., StubProcess]]:
    """Starts a driver that lacks some functions."""
    with ExitStack() as stack:

        def start(*functions: str) -> StubProcess:
            build(tmp_path, functions)
            return stack.enter_context(stub_process(tmp_path))

        yield start
