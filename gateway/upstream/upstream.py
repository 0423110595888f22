"""One named upstream: which of its origins a request goes to.

Rules: least in flight of two origins taken at random (the "power of two choices"); an origin to which no connection can
be made is set aside for SET_ASIDE_S and the request moves on to the next, at most once to each; when all are set aside,
all are tried. An origin that somebody has found `ill` is passed over in the same way until it is found well again.
Limits (`max_connections`, `max_pending`) are each origin's own, so that a slow one cannot use up the places of the
others.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.model.route import Timeouts
from gateway.model.settings import UpstreamSettings
from gateway.resilience.deadline import Deadline
from gateway.upstream.connect import Connector, Dialer, Origin, P
from gateway.upstream.failures import ConnectFailed, ConnectionLost
from gateway.upstream.outgoing import Outgoing
from gateway.upstream.pool import Pool
from gateway.upstream.reply import Reply

SET_ASIDE_S: Final = 10.0
"""How long an origin that could not be connected to is passed over while there are others."""
_LOOKS: Final = 4
"""Connections to an origin for looking how it is, and who may wait for one."""


class Member:
    """One origin of an upstream. `aside_until_s` is in the time of the upstream's clock.

    `ill`: passed over while there are others. Set by whoever looks after the origins; nothing here does.
    """

    __slots__ = ("_looks", "aside_until_s", "connector", "ill", "pool")

    def __init__(self, origin: Origin, connector: Connector, settings: UpstreamSettings) -> None:
        self.connector = connector
        self.pool = _pool(origin, connector, settings, settings.max_connections, settings.max_pending)
        self.aside_until_s = 0.0
        self.ill = False
        self._looks = _pool(origin, connector, settings, _LOOKS, _LOOKS)

    def update(self, settings: UpstreamSettings) -> None:
        """Go on under other limits: connections, and what is known of the origin, stay."""
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

    async def look(self, outgoing: Outgoing, *, timeouts: Timeouts, deadline: Deadline) -> Reply:
        """Ask this origin how it is, as Upstream.exchange does, but not over connections that requests wait for.

        A busy origin is not an ill one.
        """
        return await self._looks.exchange(outgoing, timeouts, deadline)

    async def aclose(self) -> None:
        """Close all connections, also those in use."""
        await asyncio.gather(self.pool.aclose(), self._looks.aclose())


class Upstream:
    """One or several origins behind one name. One event loop only.

    `authority` is the `Host` to send; with several origins a `host` field that equals it is replaced by that of the
    origin chosen. `members`: its origins, where they outlive it; then they are not its to close. `connector` and
    `clock` (monotonic seconds) are for tests.

    Construction raises ValueError for a URL that is no origin, OSError or ssl.SSLError for TLS files of no use.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        *,
        members: Sequence[Member] = (),
        connector: Connector | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = settings.name
        self.origins = tuple(Origin.parse(url) for url in settings.urls)
        self.authority = self.origins[0].authority
        self._clock = clock
        self._members = tuple(members) or members_of(settings, connector)
        self._lent = bool(members)
        self._only = self._members[0].pool if len(self._members) == 1 else None

    def __repr__(self) -> str:
        return f"<Upstream {self.name} {[member.pool for member in self._members]}>"

    @property
    def members(self) -> tuple[Member, ...]:
        """Each origin by itself, for whoever looks after them."""
        return self._members

    def exchange(self, outgoing: Outgoing, *, timeouts: Timeouts, deadline: Deadline) -> Coroutine[Any, Any, Reply]:
        """Send a request and wait for the response head; 1xx are swallowed.

        Raises GatewayError with `sent` False when no byte of the request went out: `upstream_unreachable`,
        `upstream_timeout`, `upstream_protocol_error`, `upstream_overloaded`, `deadline_exceeded` (this is looked at
        here too, so that no wait is without end), `bad_request` for a head that could be read as two; and whatever the
        request body raised. May be cancelled at any time.
        """
        if self._only is not None:
            return self._only.exchange(outgoing, timeouts, deadline)
        return self._exchange_with_any(outgoing, timeouts, deadline)

    async def dial(self, factory: Callable[[Origin], P], within_s: float) -> P:
        """A connection of its own to one origin, outside the pool and its limits (WebSocket).

        Chosen as for a request. Raises ConnectFailed, or `upstream_overloaded` when we are out of sockets.
        """
        untried = list(self._members)
        while True:
            member = self._choose(untried)
            untried.remove(member)
            try:
                return await member.connector(member.pool.origin, partial(factory, member.pool.origin), within_s)
            except ConnectFailed:
                member.aside_until_s = self._clock() + SET_ASIDE_S
                if not untried:
                    raise

    async def probe(self, timeout_s: float) -> None:
        """Connect to every origin, send nothing. Raises the GatewayError of the first if none can be reached."""
        results = await asyncio.gather(*(_touch(member, timeout_s) for member in self._members))
        if None not in results:
            raise next(error for error in results if error is not None)

    async def aclose(self) -> None:
        """Close all connections, also those in use."""
        if not self._lent:
            await asyncio.gather(*(member.aclose() for member in self._members))

    def snapshot(self) -> dict[str, object]:
        """For the status page: what each origin is doing."""
        return {"name": self.name, "origins": [self._describe(member) for member in self._members]}

    async def _exchange_with_any(self, outgoing: Outgoing, timeouts: Timeouts, deadline: Deadline) -> Reply:
        untried = list(self._members)
        while True:
            member = self._choose(untried)
            untried.remove(member)
            try:
                return await member.pool.exchange(self._addressed(outgoing, member), timeouts, deadline)
            except (ConnectFailed, ConnectionLost) as error:
                if error.sent:
                    raise
                member.aside_until_s = self._clock() + SET_ASIDE_S
                if not untried:
                    raise

    def _choose(self, members: list[Member]) -> Member:
        now = self._clock()
        good = [member for member in members if member.aside_until_s <= now and not member.ill] or members
        pair = random.sample(good, 2) if len(good) > 1 else good
        return min(pair, key=_load)

    def _addressed(self, outgoing: Outgoing, member: Member) -> Outgoing:
        ours = (b"host", self.authority)
        if ours not in outgoing.headers:  # the caller's own Host is kept
            return outgoing
        host = (b"host", member.pool.origin.authority)
        headers = [host if header == ours else header for header in outgoing.headers]
        return dataclasses.replace(outgoing, headers=headers)

    def _describe(self, member: Member) -> dict[str, object]:
        pool = member.pool
        return {
            "origin": str(pool.origin),
            "in_flight": pool.in_flight,
            "idle": pool.idle,
            "connecting": pool.connecting,
            "pending": pool.pending,
            "streams": pool.streams,
            "ill": member.ill,
            "last_error": pool.last_error,
            "set_aside_s": max(0.0, member.aside_until_s - self._clock()),
        }


def members_of(settings: UpstreamSettings, connector: Connector | None = None) -> tuple[Member, ...]:
    """The origins of an upstream, which share one way to connect."""
    connector = connector or dialer_of(settings)
    return tuple(Member(Origin.parse(url), connector, settings) for url in settings.urls)


def dialer_of(settings: UpstreamSettings) -> Dialer:
    """How the origins of an upstream are connected to."""
    return Dialer(tuple(Origin.parse(url) for url in settings.urls), settings.tls)


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


async def _touch(member: Member, timeout_s: float) -> GatewayError | None:
    try:
        await member.connector(member.origin, _Touch, timeout_s)
    except GatewayError as error:
        return error
    return None


class _Touch(asyncio.Protocol):
    """Connects and leaves."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _load(member: Member) -> int:
    return member.pool.load
