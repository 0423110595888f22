"""One request on its way through the layers around an attempt, and what is made of its outcome.

Rules: an error is about the upstream only if the upstream had the time: what our own queue used up, and what the caller
used up by sending slowly or by not reading, says nothing about it. The first verdict counts.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

from gateway.errors import GatewayError, Source
from gateway.model.request import AccessRecord
from gateway.resilience.deadline import Deadline
from gateway.resilience.trial import Ticket
from gateway.telemetry.observer import Span
from gateway.upstream.failures import ConnectFailed, QueuedTooLong
from gateway.upstream.outgoing import Outgoing

if TYPE_CHECKING:
    from gateway.upstream.origins import Member


# One request on its way to an upstream, over all its attempts: at which origin it is, and what that origin is told.
#
# Rules: an upstream says where the request went; whoever judges the outcome says what became of it, and what is the
# origin's own then counts for that origin. Without an upstream of origins nothing happens here.

_LOG: Final = logging.getLogger("gateway")
_NOTHING_NEW: Final = -1


class Journey:
    """One request. `subject`: on whose behalf. `failed`: the origin at which the last attempt failed."""

    __slots__ = ("_answers", "_setbacks", "failed", "member", "subject")

    def __init__(self, subject: str = "") -> None:
        self.subject = subject
        self.member: Member | None = None
        self.failed: Member | None = None

    def goes_to(self, member: Member) -> None:
        """An attempt begins there."""
        self.member = member
        self._answers = member.evidence.answers
        self._setbacks = member.setbacks

    def has_no_choice(self) -> None:
        """It goes there although the origin is set aside, as all are: a failure there is no news."""
        self._setbacks = _NOTHING_NEW

    def went_well(self, now_s: float) -> None:
        """The origin answered."""
        member = self.member
        if member is not None and member.answered(now_s):
            _LOG.info("[upstream] %s answers again", member.origin)

    def went_wrong(self, code: str, now_s: float) -> None:
        """The attempt failed there, in a way that may be the origin's own."""
        member = self.failed = self.member
        if member is not None and member.failed(self._answers, self._setbacks, now_s):
            _LOG.warning("[upstream] %s is set aside for %g s (%s)", member.origin, member.aside_s, code)


_OURS: Final = frozenset({"upstream_overloaded", "upstream_circuit_open"})
_SLOW_S: Final = 0.1
"""A caller who used up less than this was not slow."""


class Call(Journey):
    """One request on its way through the layers. It is the verdict of its answer, too."""

    __slots__ = (
        "begun_s",
        "clock",
        "deadline",
        "excused_s",
        "moved",
        "moves",
        "outgoing",
        "record",
        "replayable",
        "span",
        "ticket",
    )

    def __init__(
        self,
        outgoing: Outgoing,
        deadline: Deadline,
        span: Span,
        replayable: bool,  # by position: this is made for every request
        record: AccessRecord,
        ticket: Ticket,
        clock: Callable[[], float],
    ) -> None:
        self.subject = outgoing.share_key  # not by `super`: this is made for every request
        self.member = self.failed = None
        self.outgoing = outgoing
        self.deadline = deadline
        self.span = span
        self.replayable = replayable
        self.record = record
        self.ticket = ticket
        self.clock = clock
        self.begun_s = clock()
        self.excused_s = deadline.excused_s()
        self.moved = False  # it has moved on to another origin, as it may once
        self.moves = False  # its next attempt is that one

    def well(self) -> None:
        """It was answered."""
        self.ticket.success()
        self.went_well(self.clock())

    def broken(self, error: GatewayError, unread_s: float) -> None:
        """Its answer broke off: that is nobody's failure if the caller did not finish its request, or hardly read."""
        if error.kind.source is not Source.UPSTREAM or self._caller_slow(unread_s):
            self.ticket.neutral()
            return
        self.ticket.failure(error.code)
        self.went_wrong(error.code, self.clock())

    def given_up(self) -> None:
        """Nobody waits for it any more."""
        self.ticket.neutral()

    def says_nothing(self, error: GatewayError) -> bool:
        """Whether this error is not about the upstream."""
        if isinstance(error, QueuedTooLong):
            return True
        if error.code == "deadline_exceeded":
            # Without our queue and the caller's slow sending or reading: a failure if the upstream had half the time.
            theirs_s = self.clock() - self.begun_s - self._excused()
            return theirs_s < self.deadline.granted_s / 2
        if error.kind.source is not Source.UPSTREAM or error.code in _OURS:
            return True
        return not isinstance(error, ConnectFailed) and not self.whole and self._caller_slow(self._excused())

    @property
    def whole(self) -> bool:
        """Whether its body was here when it began."""
        return isinstance(self.outgoing.body, (bytes, type(None)))

    def _excused(self) -> float:
        return self.deadline.excused_s() - self.excused_s

    def _caller_slow(self, seconds: float) -> bool:
        return seconds >= max(_SLOW_S, (self.clock() - self.begun_s) / 2)


class _Arriving:
    """The body of a trial, still on its way: tells the ticket when it is whole."""

    __slots__ = ("_body", "_ticket")

    def __init__(self, body: AsyncIterator[bytes], ticket: Ticket) -> None:
        self._body = body
        self._ticket = ticket

    def __aiter__(self) -> _Arriving:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._body)
        except StopAsyncIteration:
            self._ticket.arrived()
            raise


def prepare_trial(call: Call) -> None:
    """Make this request the trial: over a new connection, as the kept ones may have died with what failed."""
    outgoing = call.outgoing
    outgoing.fresh = True
    if outgoing.body is not None and not isinstance(outgoing.body, bytes):
        outgoing.body = _Arriving(outgoing.body, call.ticket)
