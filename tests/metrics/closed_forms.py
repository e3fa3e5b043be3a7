"""Closed-form waits of queues in equilibrium under Poisson arrivals; infinite where there is no equilibrium.

Rates are per second; waits are seconds in the queue, excluding service.
Source: L. Kleinrock, Queueing Systems, vol. 1 (1975), ch. 3 for M/M/c, ch. 5 for M/G/1.
"""

from __future__ import annotations

import math

from pytest_comfyload.errors import UsageError

__all__ = ["erlang_c", "mg1_mean_wait", "mmc_mean_wait", "mmc_wait_percentile"]


def erlang_c(servers: int, offered: float) -> float:
    """Return the probability that a prompt has to wait in an M/M/c queue.

    `offered` is the arrival rate × the mean service time, in erlangs. A. K. Erlang (1917): C = B / (1 − ρ(1 − B)). The
    loss probability B comes from the recursion B(k) = aB(k−1) / (k + aB(k−1)), B(0) = 1, which neither overflows nor
    cancels.
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
    """Return the mean wait in seconds: W = C / (cμ − λ), with Erlang's C."""
    spare = _spare_rate(arrival_rate, mean_service, servers)
    return erlang_c(servers, arrival_rate * mean_service) / spare if spare > 0 else math.inf


def mmc_wait_percentile(q: float, arrival_rate: float, mean_service: float, servers: int = 1) -> float:
    """Return the wait in seconds that q percent do not exceed, 0 < q < 100; P(W > t) = C·exp(−(cμ − λ)t)."""
    if not 0 < q < 100:
        raise UsageError(f"q={q!r} is not a percentage between 0 and 100")
    spare = _spare_rate(arrival_rate, mean_service, servers)
    if spare <= 0:
        return math.inf
    waiting = erlang_c(servers, arrival_rate * mean_service)
    exceeded = 1 - q / 100
    return math.log(waiting / exceeded) / spare if waiting > exceeded else 0.0


def mg1_mean_wait(arrival_rate: float, mean_service: float, cv: float) -> float:
    """Return the mean wait in seconds: W = λ·E[S²] / 2(1 − ρ), where service times have coefficient of variation `cv`.

    F. Pollaczek (1930), A. Y. Khinchine (1932). A cv of 1 is M/M/1, a cv of 0 is M/D/1.
    """
    if _spare_rate(arrival_rate, mean_service, 1) <= 0:
        return math.inf
    second_moment = mean_service**2 * (1 + cv**2)
    return arrival_rate * second_moment / (2 * (1 - arrival_rate * mean_service))


def _spare_rate(arrival_rate: float, mean_service: float, servers: int) -> float:
    """Return cμ − λ."""
    if not (0 <= arrival_rate < math.inf and 0 < mean_service < math.inf):
        raise UsageError(
            f"arrival_rate={arrival_rate!r} and mean_service={mean_service!r}: needs a rate of at least 0 and a time"
        )
    return servers / mean_service - arrival_rate
