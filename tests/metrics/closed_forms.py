"""Waits that a formula knows, for queues in equilibrium under Poisson arrivals; without one they grow without end: inf.

Rates are per second, waits are seconds in the queue, service not included.
Sources: M/M/c in L. Kleinrock, Queueing Systems, vol. 1 (1975), ch. 3; M/G/1 there in ch. 5.
"""

from __future__ import annotations

import math

from pytest_comfyload.errors import UsageError

__all__ = ["erlang_c", "mg1_mean_wait", "mmc_mean_wait", "mmc_wait_percentile"]


def erlang_c(servers: int, offered: float) -> float:
    """The probability that a prompt has to wait, M/M/c; `offered` is arrival rate × mean service time, in erlangs.

    A. K. Erlang (1917): C = B / (1 − ρ(1 − B)), by the recursion B(k) = aB(k−1) / (k + aB(k−1)), B(0) = 1, for the
    loss probability B, which neither overflows nor cancels.
    """
    if servers < 1 or not 0 <= offered < math.inf:
        raise UsageError(f"erlang_c({servers!r}, {offered!r}): needs a server and an offered load of at least 0")
    if offered >= servers:
        return 1.0
    blocked = 1.0
    for k in range(1, servers + 1):
        blocked = offered * blocked / (k + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))


def mmc_mean_wait(arrival_rate: float, mean_service: float, servers: int = 1) -> float:
    """Seconds; W = C / (cμ − λ), with Erlang's C."""
    spare = _spare_rate(arrival_rate, mean_service, servers)
    return erlang_c(servers, arrival_rate * mean_service) / spare if spare > 0 else math.inf


def mmc_wait_percentile(q: float, arrival_rate: float, mean_service: float, servers: int = 1) -> float:
    """Seconds that q percent do not exceed, 0 < q < 100; from P(W > t) = C·exp(−(cμ − λ)t), with Erlang's C."""
    if not 0 < q < 100:
        raise UsageError(f"q={q!r} is not a percentage between 0 and 100")
    spare = _spare_rate(arrival_rate, mean_service, servers)
    if spare <= 0:
        return math.inf
    waiting = erlang_c(servers, arrival_rate * mean_service)
    exceeded = 1 - q / 100
    return math.log(waiting / exceeded) / spare if waiting > exceeded else 0.0


def mg1_mean_wait(arrival_rate: float, mean_service: float, cv: float) -> float:
    """Seconds; W = λ·E[S²] / 2(1 − ρ), for service times of any shape with coefficient of variation `cv`.

    F. Pollaczek (1930), A. Y. Khinchine (1932). cv 1 is M/M/1, cv 0 is M/D/1.
    """
    if _spare_rate(arrival_rate, mean_service, 1) <= 0:
        return math.inf
    second_moment = mean_service**2 * (1 + cv**2)
    return arrival_rate * second_moment / (2 * (1 - arrival_rate * mean_service))


def _spare_rate(arrival_rate: float, mean_service: float, servers: int) -> float:
    """cμ − λ."""
    if not (0 <= arrival_rate < math.inf and 0 < mean_service < math.inf):
        raise UsageError(
            f"arrival_rate={arrival_rate!r} and mean_service={mean_service!r}: needs a rate of at least 0 and a time"
        )
    return servers / mean_service - arrival_rate
