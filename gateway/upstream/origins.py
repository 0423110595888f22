"""One origin of an upstream: how it is, and whether a request should go there.

Which of several it will be is not decided here.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.model.route import Timeouts
from gateway.model.settings import UpstreamSettings
from gateway.resilience.deadline import Deadline
from gateway.resilience.evidence import Answers, Blame
from gateway.telemetry.observer import Server
from gateway.upstream.connect import Connector, Origin
from gateway.upstream.outgoing import Outgoing
from gateway.upstream.pool import Pool
from gateway.upstream.reply import Reply

ASIDE_S: Final = 1.0
"""How long an origin is set aside by its first failure."""
LONGEST_S: Final = 30.0
_DOUBLINGS: Final = 10
_LOOKS: Final = 4
"""Connections to an origin for looking how it is, and who may wait for one."""


class Standing:
    """How one address is, as far as requests tell. Times are monotonic seconds, of one clock.

    `failures`: how often in a row it was set aside; `failed_s`: when anything failed here last; `turn_s`: when it
    was last asked for want of a better one. `setbacks` only grows: who began before the last one tells nothing new.
    `ill`: set by whoever looks after the addresses; nothing here does.
    """

    __slots__ = ("_held_until_s", "aside_until_s", "evidence", "failed_s", "failures", "ill", "setbacks", "turn_s")

    def __init__(self) -> None:
        self.evidence = Answers()
        self.failures = 0
        self.failed_s = self.turn_s = 0.0
        self.setbacks = 0
        self.aside_until_s = 0.0
        self.ill = False
        self._held_until_s = 0.0

    @property
    def suspect(self) -> bool:
        """Whether it has answered nobody since it failed."""
        return self.failures > 0

    @property
    def aside_s(self) -> float:
        """How long its last failure sets it aside."""
        # ASIDE_S at first, doubling up to LONGEST_S.
        return min(ASIDE_S * 2.0 ** min(self.failures - 1, _DOUBLINGS), LONGEST_S)

    def fit(self, now_s: float, *, repeatable: bool = True) -> bool:
        """Whether a request should go there while there are others."""
        until_s = self.aside_until_s
        if until_s and not repeatable:
            # What cannot be repeated only tries when nobody else has for as long again.
            until_s += self.aside_s
        return until_s <= now_s and not self.ill and not (self._held_until_s and self.held_s(now_s))

    def held_s(self, now_s: float) -> float:
        """Seconds for which it wants to be asked nothing."""
        # Never held back while it answered somebody within the last second.
        if self._held_until_s and self.evidence.recent(now_s):
            self._held_until_s = 0.0
        return max(0.0, self._held_until_s - now_s)

    def hold(self, seconds: float, now_s: float) -> None:
        """It said when to come back; it does not mean it where it answered somebody else just now."""
        if not self.evidence.recent(now_s):
            self._held_until_s = max(self._held_until_s, now_s + seconds)

    def tried(self, now_s: float) -> None:
        """A request goes to it although it is suspect: others wait what becomes of that."""
        self.aside_until_s = now_s + self.aside_s

    def answered(self, now_s: float) -> bool:
        """It gave an answer that is no failure. Whether that ends its being set aside."""
        evidence = self.evidence
        evidence.answers += 1
        evidence.answered_s = now_s
        if not self.failures:
            return False
        # An answer ends being set aside.
        self.failures = 0
        self.aside_until_s = 0.0
        return True

    def failed(self, answers_before: int, setbacks_before: int, now_s: float) -> bool:
        """A request failed here that began when `answers` and `setbacks` were so. Whether that sets it aside."""
        self.failed_s = now_s
        # Only a failure of its own sets it aside, and one in flight when it was is no news.
        if self.setbacks != setbacks_before or self.evidence.blame(answers_before) is Blame.REQUEST:
            return False
        self.failures += 1
        self.setbacks += 1
        self.aside_until_s = now_s + self.aside_s
        return True

    def looks_well(self) -> None:
        """Its health check says so: the next request may try it."""
        self.ill = False
        self.aside_until_s = 0.0

    def put_off(self, now_s: float) -> None:
        """It was looked at, and is not well yet: the next look is later."""
        self.failures += 1
        self.aside_until_s = now_s + self.aside_s


class Member(Standing):
    """One origin of an upstream: how it is, and the connections there. Times are of the upstream's clock.

    When it is set aside, those who wait for a connection to it look for another origin, if there are any.
    `server`: its name for spans and metrics.
    """

    __slots__ = ("_looks", "_several", "connector", "pool", "server")

    def __init__(self, origin: Origin, connector: Connector, settings: UpstreamSettings) -> None:
        super().__init__()
        self.connector = connector
        self.pool = _pool(origin, connector, settings, settings.max_connections, settings.max_pending)
        self.server = Server(origin.address.host, str(origin.address.port), str(origin))
        self._looks = _pool(origin, connector, settings, _LOOKS, _LOOKS)
        self._several = len(settings.urls) > 1

    def update(self, settings: UpstreamSettings) -> None:
        """Go on under other limits: connections, and what is known of the origin, stay."""
        self._several = len(settings.urls) > 1
        self.pool.update(
            max_connections=settings.max_connections,
            max_pending=settings.max_pending,
            idle_timeout_s=settings.idle_timeout_s,
            max_age_s=settings.max_connection_age_s,
        )

    @property
    def origin(self) -> Origin:
        """Where it listens."""
        return self.pool.origin

    def failed(self, answers_before: int, setbacks_before: int, now_s: float) -> bool:
        """See Standing."""
        aside = super().failed(answers_before, setbacks_before, now_s)
        if aside:
            self.send_away()
        return aside

    def send_away(self) -> None:
        """Others are better: let those who wait here go there."""
        if self._several:
            self.pool.send_away()

    async def look(self, outgoing: Outgoing, *, timeouts: Timeouts, deadline: Deadline) -> Reply:
        """Ask this origin how it is, as Upstream.exchange does, but not over connections that requests wait for.

        A busy origin is not an ill one.
        """
        return await self._looks.exchange(outgoing, timeouts, deadline)

    async def aclose(self) -> None:
        """Close all connections, also those in use."""
        await asyncio.gather(self.pool.aclose(), self._looks.aclose())


def _pool(
    origin: Origin, connector: Connector, settings: UpstreamSettings, max_connections: int, max_pending: int
) -> Pool:
    return Pool(
        origin,
        connector,
        max_connections=max_connections,
        max_pending=max_pending,
        idle_timeout_s=settings.idle_timeout_s,
        max_age_s=settings.max_connection_age_s,
    )
