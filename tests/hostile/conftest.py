from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

# Bytes that a command or a reading function may take in addition to what the interpreter uses already.
MOST_MEMORY = 1536 << 20


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Limit this process, for the rest of the test, to little more memory than it uses."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
