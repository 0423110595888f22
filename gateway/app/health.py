"""What `/health/systems` asks: IAM and every upstream, each in its own way, with the breakers that stand before it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from gateway.forward.health import System, SystemsHealth, Unavailable
from gateway.iam.client import Iam
from gateway.iam.decision_point import DecisionPoint
from gateway.model.route import Timeouts
from gateway.model.settings import Configuration, HealthCheck
from gateway.resilience.breaker import Breaker
from gateway.resilience.deadline import Deadline
from gateway.upstream import Outgoing, Upstream

BAD_STATUS = 400


def health_of(
    configuration: Configuration,
    upstreams: Mapping[str, Upstream],
    iam: DecisionPoint,
    breakers_of: Callable[[str], list[Breaker]],
) -> SystemsHealth:
    """The report of one configuration. `breakers_of` gives the breakers of `iam` or of an upstream by its name."""
    systems = [System("iam", partial(_ask_iam, iam), partial(breakers_of, "iam"), configuration.iam.timeout.total_s)]
    for name, settings in configuration.upstreams.items():
        probe = probe_of(upstreams[name], settings.health)
        systems.append(System(name, probe, partial(breakers_of, name), settings.health.timeout_s))
    return SystemsHealth(systems)


async def _ask_iam(iam: DecisionPoint) -> None:
    """The embedded decision point is always there."""
    if isinstance(iam, Iam) and (code := await iam.probe()):
        raise Unavailable(code)


def probe_of(upstream: Upstream, check: HealthCheck) -> Callable[[], Awaitable[None]]:
    """What asks one upstream: its `health` path, else a TCP connect."""
    if check.path is None:
        return partial(upstream.probe, check.timeout_s)
    return partial(_get, upstream, check.path.encode("ascii"), check.timeout_s)


async def _get(upstream: Upstream, path: bytes, timeout_s: float) -> None:
    """Whoever asks ends this after `timeout_s`; a connection that does not come about by then says so by itself."""
    outgoing = Outgoing(b"GET", path, [(b"host", upstream.authority)], None, None)
    timeouts = Timeouts(connect_s=timeout_s, read_s=2 * timeout_s)
    reply = await upstream.exchange(outgoing, timeouts=timeouts, deadline=Deadline.after(2 * timeout_s))
    try:
        if reply.status >= BAD_STATUS:
            raise Unavailable(f"status {reply.status}")
    finally:
        await reply.aclose()
