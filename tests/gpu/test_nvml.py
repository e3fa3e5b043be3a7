"""The GPUs of a source are named."""

from __future__ import annotations

import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.gpu.nvml import NvmlSource
from pytest_comfyload.gpu.spec import GpuSource
from tests.gpu.nvml_stub import StubProcess
from tests.gpu.watching import CARD_1, SERVER


def _named(*gpus: str) -> str:
    source: GpuSource = NvmlSource(SERVER, gpus or None)
    assert source.server == SERVER
    assert source.losses == ()
    return str(source)


def test_a_source_is_read_by_its_gpus(stub: StubProcess) -> None:
    assert stub(_named) == "nvml:GPU-00000000,GPU-00010000"
    assert stub(_named, "1") == "nvml:GPU-00010000"
    assert stub(_named, CARD_1, "1", "GPU-0001") == "nvml:GPU-00010000"


def test_a_gpu_that_is_not_there(stub: StubProcess) -> None:
    with pytest.raises(UsageError, match=r"no GPU '2' .* 0 = GPU-00000000 \(NVIDIA Stub 4090\), 1 = GPU-0001"):
        stub(_named, "0", "2")
