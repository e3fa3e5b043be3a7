from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

# Bytes that a command or a reading function may take beside what the interpreter has already.
MOST_MEMORY = 1536 << 20


@pytest.fixture
def little_memory() -> Iterator[None]:
    """For the rest of the test this process gets little more memory than it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
