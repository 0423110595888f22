"""One named upstream: which of its origins a request goes to.

Limits (`max_connections`, `max_pending`) are each origin's own, so that a slow one uses up no places of the others.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from gateway.errors import GatewayError, Source
from gateway.model.route import Resilience, Timeouts
from gateway.model.settings import UpstreamSettings
from gateway.resilience.deadline import Deadline
from gateway.upstream.call import Journey
from gateway.upstream.connect import Connector, Dialer, Origin, P
from gateway.upstream.failures import ConnectFailed, ConnectionLost, SentAway
from gateway.upstream.origins import Member
from gateway.upstream.outgoing import Outgoing
from gateway.upstream.reply import Reply

FAILURE_STATUSES: Final = Resilience().failure_statuses
"""What an origin fails by where no route says it."""


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
        self._only = self._members[0] if len(self._members) == 1 else None
        self.holds = any(member.held_s(clock()) for member in self._members)

    def __repr__(self) -> str:
        return f"<Upstream {self.name} {[member.pool for member in self._members]}>"

    @property
    def several(self) -> bool:
        """Whether there is more than one origin."""
        return self._only is None

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
        only = self._only
        if only is not None:
            if outgoing.journey is not None:
                outgoing.journey.goes_to(only)
            return only.pool.exchange(outgoing, timeouts, deadline)
        return self._exchange_with_any(outgoing, timeouts, deadline)

    async def dial(self, factory: Callable[[Origin], P], within_s: float, journey: Journey | None = None) -> P:
        """A connection of its own to one origin, outside the pool and its limits (WebSocket).

        Chosen as for a request. Raises ConnectFailed, or `upstream_overloaded` when we are out of sockets.
        """
        journey = journey or Journey()
        untried = list(self._members)
        while True:
            member = self._choose(untried, journey, repeatable=True)
            untried.remove(member)
            try:
                return await member.connector(member.pool.origin, partial(factory, member.pool.origin), within_s)
            except ConnectFailed as error:
                journey.went_wrong(error.code, self._clock())
                if not untried:
                    raise

    def held_s(self) -> float:
        """Seconds until an origin may be asked again: each of them said when to come back. Usually 0."""
        now = self._clock()
        held_s = [member.held_s(now) for member in self._members]
        self.holds = any(held_s)
        return min(held_s)

    def hold(self, journey: Journey, seconds: float) -> None:
        """The origin at which this request is said to come back after so long."""
        if journey.member is not None:
            journey.member.hold(seconds, self._clock())
            self.holds = True

    def elsewhere(self, journey: Journey) -> bool:
        """Whether there is another origin than the one that just failed, and it may be asked."""
        now = self._clock()
        return any(member is not journey.failed and not member.held_s(now) for member in self._members)

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
        judged = outgoing.journey is not None
        journey = outgoing.journey or Journey()
        untried = list(self._members)
        while True:
            member = self._choose(untried, journey, repeatable=outgoing.replayable)
            untried.remove(member)
            # A repeatable request has half its time at a suspect origin, so that it can still move on.
            brief = member.suspect and bool(untried) and outgoing.replayable
            limits = _briefly(timeouts, deadline) if brief else timeouts
            try:
                reply = await member.pool.exchange(self._addressed(outgoing, member), limits, deadline)
            except SentAway:
                now = self._clock()
                fit = [each for each in self._members if each.fit(now, repeatable=False) and each.pool.has_room]
                untried = fit or [member]
            except GatewayError as error:
                # To the next origin where no connection can be made, at most once to each.
                moves_on = isinstance(error, (ConnectFailed, ConnectionLost)) and not error.sent and bool(untried)
                if moves_on or not judged:
                    self._blame(journey, error)
                if not moves_on:
                    raise
            else:
                if not judged:
                    self._judge(journey, reply)
                return reply

    def _choose(self, members: list[Member], journey: Journey, *, repeatable: bool) -> Member:
        now = self._clock()
        if journey.failed is not None and len(members) > 1:
            # A further attempt does not go to the origin that just failed while there is another.
            members = [member for member in members if member is not journey.failed]
        good = [member for member in members if member.fit(now, repeatable=repeatable)]
        # When none is fit the least bad one is used: nobody is refused for what some origins do.
        member = _less_busy(good or _least_bad(members, now))
        journey.goes_to(member)
        if not good:
            journey.has_no_choice()
            member.turn_s = now
        elif member.suspect:
            member.tried(now)
        return member

    def _blame(self, journey: Journey, error: GatewayError) -> None:
        if error.kind.source is Source.UPSTREAM and error.code != "upstream_overloaded":
            journey.went_wrong(error.code, self._clock())

    def _judge(self, journey: Journey, reply: Reply) -> None:
        if reply.status in FAILURE_STATUSES:
            journey.went_wrong(f"http_{reply.status}", self._clock())
        else:
            journey.went_well(self._clock())

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
            "set_aside_s": max(0.0, member.aside_until_s - self._clock(), member.held_s(self._clock())),
        }


def members_of(settings: UpstreamSettings, connector: Connector | None = None) -> tuple[Member, ...]:
    """The origins of an upstream, which share one way to connect."""
    connector = connector or dialer_of(settings)
    return tuple(Member(Origin.parse(url), connector, settings) for url in settings.urls)


def dialer_of(settings: UpstreamSettings) -> Dialer:
    """How the origins of an upstream are connected to."""
    return Dialer(tuple(Origin.parse(url) for url in settings.urls), settings.tls)


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


def _less_busy(members: list[Member]) -> Member:
    # The less busy of two at random (the "power of two choices").
    pair = random.sample(members, 2) if len(members) > 1 else members
    return min(pair, key=_load)


def _least_bad(members: list[Member], now_s: float) -> list[Member]:
    """One that answered somebody within the last second and was not chosen here since, else whose turn is longest ago.

    So one that is well is found soon, also when many ask at once, and one caller's failures do not take it from others.
    """

    def how_bad(member: Member) -> tuple[bool, bool, bool, float, int]:
        answers = member.evidence.recent(now_s) and member.turn_s <= member.evidence.answered_s
        return member.held_s(now_s) > 0, member.ill, not answers, max(member.turn_s, member.failed_s), member.pool.load

    return [min(members, key=how_bad)]


def _briefly(timeouts: Timeouts, deadline: Deadline) -> Timeouts:
    """So that there is time left for another origin."""
    half_s = deadline.remaining_s() / 2
    if half_s >= timeouts.read_s:
        return timeouts
    return dataclasses.replace(timeouts, read_s=half_s, connect_s=min(timeouts.connect_s, half_s))
