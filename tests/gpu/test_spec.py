"""The user's specification of where a server's GPUs are read."""

from __future__ import annotations

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.errors import UsageError
from pytest_comfyload.gpu.spec import GpuSpec, parse_specs

SERVER, OTHER = "http://gpu1:8188", "http://gpu2:8188"


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        (
            f"{SERVER}=metrics:http://gpu1:9400/metrics",
            GpuSpec(SERVER, "metrics", ServerAddress("http://gpu1:9400/metrics")),
        ),
        (
            f"{SERVER}/=metrics:http://gpu1:9400/metrics#GPU-1,2",
            GpuSpec(SERVER, "metrics", ServerAddress("http://gpu1:9400/metrics"), ("GPU-1", "2")),
        ),
        (f" {SERVER}=nvml ", GpuSpec(SERVER, "nvml")),
        (f"{SERVER}=nvml:GPU-1,GPU-2", GpuSpec(SERVER, "nvml", gpus=("GPU-1", "GPU-2"))),
        (f"{SERVER}=system_stats", GpuSpec(SERVER, "system_stats")),
        (f"{SERVER}=none", GpuSpec(SERVER, "none")),
        (f"http://me:secret@gpu1:8188={'none'}", GpuSpec(SERVER, "none")),
    ],
)
def test_a_legal_form(text: str, spec: GpuSpec) -> None:
    assert parse_specs([text], [OTHER, SERVER]) == {SERVER: spec}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nvml", "'nvml': write URL=metrics:"),
        (SERVER, f"'{SERVER}': write URL=metrics:"),
        (f"{SERVER}=dcgm", "=dcgm is not a source of GPU figures; write URL=metrics:"),
        (f"{SERVER}=metrics", "=metrics is not a source of GPU figures"),
        (f"{SERVER}=none:1", "=none:… is not a source of GPU figures"),
        (f"{SERVER}=metrics:gpu1:9400", "not a server URL: 'gpu1:9400'"),
        (f"http://me:secret@gpu1 :8188={'none'}", "'http://…@gpu1 :8188=none': write"),
        ("http://gpu1:8188/?token=secret", "'http://gpu1:8188/?…': write"),
        ("http://gpu1:8188/?token=secret=metrics:http://gpu1:9400", "'http://gpu1:8188/?…': write"),
        ("http://gpu3:8188=none", f"names a server that is not watched; servers: {SERVER}, {OTHER}"),
    ],
)
def test_an_illegal_form_is_refused_with_the_legal_ones(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_specs([text], [SERVER, OTHER])
    assert reason in str(refused.value)
    assert "secret" not in str(refused.value)


def test_one_server_has_one_source() -> None:
    with pytest.raises(UsageError, match="twice"):
        parse_specs([f"{SERVER}=none", f"{SERVER}=nvml"], [SERVER])
