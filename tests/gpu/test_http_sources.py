"""An exporter is polled on schedule; if it stops answering there is a gap and a message, but no failure."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from pytest_comfyload.client.address import ServerAddress
from pytest_comfyload.client.clock import Clock
from pytest_comfyload.errors import ServerError
from pytest_comfyload.gpu import http_sources as polling
from pytest_comfyload.gpu.http_sources import MetricsSource, wall_period
from pytest_comfyload.result.telemetry import GpuSample
from tests.gpu.exporter import DCGM, Exporter
from tests.gpu.test_prometheus import FIRST, SECOND

SERVER = "http://gpu1:8188"


def _source(exporter: Exporter, *gpus: str, scale: float = 10.0) -> MetricsSource:
    return MetricsSource(SERVER, ServerAddress(exporter.url), gpus, scale)


def test_samples_come_at_both_ends_and_between_and_cover_the_time() -> None:
    async def watch() -> tuple[list[GpuSample], MetricsSource, float]:
        samples: list[GpuSample] = []
        clock = Clock(scale=10.0)
        async with Exporter() as exporter:
            source = _source(exporter)
            async with source.watching(samples.append, clock.now):
                await exporter.looked(4)
        return samples, source, clock.now()

    samples, source, end = asyncio.run(watch())
    first = [sample for sample in samples if sample.gpu == FIRST]
    assert {sample.gpu for sample in samples} == {FIRST, SECOND}
    assert {sample.server for sample in samples} == {SERVER}
    assert len(first) >= 5
    assert first[0].span == 0.0
    # Each sample starts where the previous one ended: no time counts twice, and none is omitted.
    for before, after in pairwise(first):
        assert after.time - after.span == pytest.approx(before.time)
    assert first[-1].time <= end
    assert first[0].utilization == 96.25
    assert source.losses == ()


def test_a_second_is_one_of_the_run_but_not_too_short() -> None:
    assert wall_period(1.0) == 1.0
    assert wall_period(1.0, 4.0) == 0.25
    assert wall_period(1.0, 1000.0) == 0.05


def test_an_endpoint_that_falls_silent_is_a_gap_and_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "PATIENCE", 0.3)

    async def watch() -> tuple[list[GpuSample], MetricsSource]:
        samples: list[GpuSample] = []
        async with Exporter() as exporter:
            source = _source(exporter, FIRST)
            async with source.watching(samples.append, Clock(scale=10.0).now):
                await exporter.looked(2)
                exporter.text = None
                await exporter.looked(2)
                exporter.hangs = True
                await exporter.looked(1)
                exporter.hangs, exporter.text = False, DCGM
                await exporter.looked(3)
        return samples, source

    samples, source = asyncio.run(watch())
    (loss,) = source.losses
    assert loss.startswith(f"{source} did not answer ")
    gap = max(after.time - before.time for before, after in pairwise(samples))
    # A hang of 0.3 s is three seconds of the run, which no sample covers.
    assert gap > 4.0
    assert max(sample.span for sample in samples) < 4.0


def test_an_endpoint_that_is_gone_fails_nothing() -> None:
    async def watch() -> tuple[list[GpuSample], MetricsSource]:
        samples: list[GpuSample] = []
        source = MetricsSource(SERVER, ServerAddress("http://127.0.0.1:9/metrics"))
        async with source.watching(samples.append, Clock().now):
            pass
        return samples, source

    samples, source = asyncio.run(watch())
    assert samples == []
    (loss,) = source.losses
    assert loss.startswith("metrics http://127.0.0.1:9/metrics did not answer 1 of 1 polls (")
    assert "connection refused" in loss


def test_a_card_that_vanishes_and_an_error_of_the_driver_are_told() -> None:
    async def watch() -> MetricsSource:
        async with Exporter() as exporter:
            source = _source(exporter)
            async with source.watching(lambda sample: None, Clock(scale=10.0).now):
                lines = [line for line in DCGM.splitlines() if SECOND not in line]
                exporter.text = "\n".join(lines).replace('err_msg="No Error"} 0', 'err_msg="fell off the bus"} 79')
        return source

    source = asyncio.run(watch())
    assert source.losses == (
        f"{source} no longer reported {SECOND} at the end",
        f"{FIRST} reported an error to its driver (XID 79)",
    )


def test_an_error_in_the_load_passes_through_at_once() -> None:
    async def watch() -> None:
        async with Exporter() as exporter, _source(exporter).watching(lambda sample: None, Clock().now):
            exporter.hangs = True
            raise KeyError("load")

    with pytest.raises(KeyError):
        asyncio.run(asyncio.wait_for(watch(), 2 * polling.PATIENCE))


@pytest.mark.parametrize("name", [SECOND, "1"])
def test_some_of_the_cards(name: str) -> None:
    async def look() -> list[str]:
        async with Exporter() as exporter:
            return [card.gpu for card in await _source(exporter, name).cards()]

    assert asyncio.run(look()) == [SECOND]


def test_a_look_raises_what_is_wrong_with_the_endpoint() -> None:
    async def look() -> None:
        async with Exporter(text=None) as exporter:
            await _source(exporter).cards()

    with pytest.raises(ServerError, match="503"):
        asyncio.run(look())


def test_credentials_are_sent_and_not_told() -> None:
    source = MetricsSource(SERVER, ServerAddress.parse("http://me:secret@gpu1:9400/metrics"), ["0"])
    assert str(source) == "metrics http://gpu1:9400/metrics#0"
