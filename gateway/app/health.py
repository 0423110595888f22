"""How IAM, every upstream and every origin are asked how they are: for `/health/systems` and `health.interval`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.forward.health import System, SystemsHealth, Unavailable, ailment
from gateway.iam.client import DecisionPoint, Iam
from gateway.model.route import Timeouts
from gateway.model.settings import Configuration, HealthCheck
from gateway.resilience.breaker import Breaker
from gateway.resilience.deadline import Deadline
from gateway.upstream import Outgoing, Upstream
from gateway.upstream.origins import Member

OWN_SHARE = 0.9
"""Of a check's time, for limits inside it: what ends by itself can still say what it waited for."""


def health_of(
    configuration: Configuration,
    upstreams: Mapping[str, Upstream],
    iam: DecisionPoint,
    breakers_of: Callable[[str], list[Breaker]],
) -> SystemsHealth:
    """The report of one configuration. `breakers_of` gives the breakers of `iam` or of an upstream by its name."""
    patience_s = configuration.iam.timeout.total_s / OWN_SHARE
    asking = _AskIam(iam, several=len(configuration.iam.urls) > 1)
    systems = [System("iam", asking, partial(breakers_of, "iam"), patience_s, lambda: asking.found)]
    for name, settings in configuration.upstreams.items():
        probe = probe_of(upstreams[name], settings.health)
        systems.append(System(name, probe, partial(breakers_of, name), settings.health.timeout_s))
    return SystemsHealth(systems)


class _AskIam:
    """Ask IAM: each of `several` urls, of which one is enough. The embedded decision point is always there.

    `found`: what was found last, by url, where there are several.
    """

    def __init__(self, iam: DecisionPoint, *, several: bool) -> None:
        self._iam = iam
        self._several = several
        self.found: dict[str, Any] = {}

    async def __call__(self) -> None:
        if not isinstance(self._iam, Iam):
            return
        if self._several:
            await self._ask_each(self._iam)
        elif code := await self._iam.probe():
            raise Unavailable(code, self._iam.probe_cause)

    async def _ask_each(self, iam: Iam) -> None:
        looks = await iam.look()
        self.found = {
            url: {"available": False, "error": wrong.code, "cause": wrong.reason} if wrong else {"available": True}
            for url, wrong in looks.items()
        }
        failures = [wrong for wrong in looks.values() if wrong is not None]
        if len(failures) == len(looks):
            raise Unavailable(
                failures[0].code, "; ".join(f"{url}: {wrong.reason}" for url, wrong in looks.items() if wrong)
            )


def probe_of(upstream: Upstream, check: HealthCheck) -> Callable[[], Awaitable[None]]:
    """What asks one upstream: its `health` path, else a TCP connect. Of several origins, one must be healthy."""
    if check.path is None:
        return partial(upstream.probe, check.timeout_s * OWN_SHARE)
    return partial(_any_well, [partial(ask_origin, member, check) for member in upstream.members])


async def ask_origin(member: Member, check: HealthCheck) -> None:
    """GET its `health` path. Raises Unavailable or GatewayError for anything but a 2xx.

    Whoever asks ends this after `timeout_s`.
    """
    path = (check.path or "/").encode("ascii")
    outgoing = Outgoing(b"GET", path, [(b"host", member.origin.authority)], None, None)
    timeouts = Timeouts(connect_s=check.timeout_s * OWN_SHARE, read_s=2 * check.timeout_s)
    reply = await member.look(outgoing, timeouts=timeouts, deadline=Deadline.after(2 * check.timeout_s))
    try:
        if not 200 <= reply.status <= 299:  # the class of successes
            raise Unavailable(f"status {reply.status}")
    finally:
        await reply.aclose()


async def _any_well(asks: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Ask all at the same time. The first healthy one is enough. Otherwise raise what is wrong with the first one."""
    asking = [asyncio.ensure_future(ask()) for ask in asks]
    try:
        for answered in asyncio.as_completed(asking):
            with suppress(Unavailable, GatewayError):
                await answered
                return
        await asking[0]
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


# `health.interval`: each origin of an upstream that has several is asked for its `health` path again and again.
#
# Rules: an origin that does not answer 2xx within `health.timeout` is unhealthy and skipped while there are others; the
# next time that it answers, it is used again. Origins are asked at the same time, the first time at once. An upstream
# with one origin has nothing to choose from, and one without a `health` path nothing to ask: neither is looked after.

_LOG: Final = logging.getLogger("gateway")


class Checker:
    """One upstream's background task. Constructed in the event loop; ends with `aclose`."""

    def __init__(self, upstream: Upstream, check: HealthCheck) -> None:
        self._upstream = upstream
        self._check = check
        self._task = asyncio.get_running_loop().create_task(self._look_after())

    async def aclose(self) -> None:
        """End the task."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _look_after(self) -> None:
        while True:
            await asyncio.gather(*(self._look_at(member) for member in self._upstream.members))
            await asyncio.sleep(self._check.interval_s)

    async def _look_at(self, member: Member) -> None:
        wrong = await ailment(partial(ask_origin, member, self._check), self._check.timeout_s)
        if not wrong and member.suspect:
            member.looks_well()
        if member.ill != bool(wrong):
            member.ill = bool(wrong)
            if wrong:
                member.send_away()
            level, change = (
                (logging.WARNING, f"passed over ({wrong.cause or wrong.text})")
                if wrong
                else (logging.INFO, "used again")
            )
            _LOG.log(level, "[health] [%s] %s is %s", self._upstream.name, member.origin, change)
