"""How one (route, upstream) pair is called: deadline( breaker( retry( attempt ))). The order is written here, once.

The **deadline** is outside everything, because the caller waits for everything; here its end only gets its name.
The **breaker** is around the retries: a request counts once, by its last attempt. The **retry** is around the attempt
alone, and knows from it whether a byte was sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

from gateway.errors import GatewayError
from gateway.model.request import AccessRecord, Headers
from gateway.model.route import Resilience, Timeouts
from gateway.resilience.breaker import CLOSED, HALF_OPEN, Breaker
from gateway.resilience.deadline import Deadline
from gateway.resilience.retry import RetryBudget, backoff_s, retry_after_s
from gateway.resilience.trial import CircuitOpen, Ticket
from gateway.telemetry.observer import NO_SERVER, Observer, Span
from gateway.upstream.answer import STREAMS, Answer, Judged, StreamTypes
from gateway.upstream.auth import Credentials
from gateway.upstream.call import Call, Journey, prepare_trial
from gateway.upstream.failures import held_back
from gateway.upstream.outgoing import Outgoing

_TOO_MANY: Final = 429
_UNAVAILABLE: Final = 503
_UNAUTHORIZED: Final = 401
_RETRIED: Final = frozenset({"upstream_unreachable", "upstream_timeout"})
_LOST: Final = frozenset({"connection_terminated", "http_response_incomplete"})
_TRIAL_GRACE_S: Final = 1.0  # so that the deadline itself, which ends the trial, comes first
_CREDENTIALS: Final = frozenset({b"authorization", b"cookie"})
_LAST_INSTANT_S: Final = 0.002  # a wait capped by the deadline wakes a hair before or after it


class Caller(Protocol):
    """One attempt: an Upstream, or what else can make one."""

    @property
    def name(self) -> str:
        """The upstream's name in the configuration."""

    @property
    def several(self) -> bool:
        """Whether it has several origins."""

    async def exchange(self, outgoing: Outgoing, *, timeouts: Timeouts, deadline: Deadline) -> Answer:
        """Send the request and wait for the response head. GatewayError with `sent` when there is none."""

    @property
    def holds(self) -> bool:
        """Whether `held_s` is worth asking."""

    def held_s(self) -> float:
        """Seconds until any origin may be asked again; 0 if one may be now."""

    def hold(self, journey: Journey, seconds: float) -> None:
        """The origin that this request is at said to come back after so long."""

    def elsewhere(self, journey: Journey) -> bool:
        """Whether there is another origin than the one that just failed."""


class GuardedUpstream:
    """One (route or part, upstream) pair.

    `name` is the route's or the part's, as logs of retries show it; `clock` is monotonic, `wall` Unix time.
    """

    def __init__(
        self,
        *,
        name: str,
        upstream: Caller,
        resilience: Resilience,
        breaker: Breaker,
        budget: RetryBudget,
        observer: Observer,
        auth: Credentials | None = None,
        streams: StreamTypes = STREAMS,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.upstream = upstream
        self.resilience = resilience
        self.breaker = breaker
        self.auth = auth
        self.streams = streams
        self._budget = budget
        self._observer = observer
        self._clock = clock
        self._wall = wall
        self._budgeted = resilience.retry.attempts > 1 or upstream.several

    def refuse_if_open(self, subject: str = "") -> None:
        """Raise `upstream_circuit_open` where `exchange` would for certain: before a body is read for it."""
        remaining_s = self.breaker.remaining_s(subject)
        if remaining_s > 0:
            raise _refused(CircuitOpen(remaining_s, self.breaker.last_failure))

    async def exchange(
        self, outgoing: Outgoing, *, deadline: Deadline, span: Span, replayable: bool, record: AccessRecord
    ) -> Answer:
        """The response head, whatever its status, with its body to be read.

        `replayable`: sending it twice does no harm (an idempotent method, or a query by POST), and the body is bytes or
        absent. Raises GatewayError: `upstream_circuit_open` (HeldBack where the upstream said when to come back), the
        last attempt's error, `deadline_exceeded`, or what the caller did wrong with its body.
        """
        breaker = self.breaker
        try:
            if breaker.state == CLOSED and not self.upstream.holds:
                ticket = breaker.admit(None, outgoing.share_key)
            else:
                ticket = self._admitted(outgoing, deadline)
        except CircuitOpen as refusal:
            raise _refused(refusal) from None
        trial = breaker.state == HALF_OPEN
        record.upstream = self.upstream.name
        call = Call(outgoing, deadline, span, replayable, record, ticket, self._clock)
        outgoing.journey = call
        if trial:
            prepare_trial(call)
        try:
            if self._budgeted:
                self._budget.request()
            # A request counts once, by its last attempt, so that three at a dead upstream are one failure.
            outcome = await self._attempt(call, 1)
            wait_s = self._wait_s(call, 1, outcome)
            if wait_s is not None:
                outcome = await self._again(call, outcome, wait_s)
        except BaseException:
            ticket.neutral()
            raise
        finally:
            outgoing.journey = None  # they name each other
            if trial:
                outgoing.fresh = False
        took_s = self._clock() - call.begun_s
        record.upstream_s = max(record.upstream_s, took_s)
        if isinstance(outcome, GatewayError):
            self._judge_error(call, outcome)
            raise outcome
        return self._judge(outcome, call, by_head=trial)

    def _admitted(self, outgoing: Outgoing, deadline: Deadline) -> Ticket:
        """As the breaker says, where the circuit is not closed or an origin said when to come back."""
        breaker = self.breaker
        held_s = self.upstream.held_s()
        if held_s > 0 and breaker.forced != CLOSED:  # an operator knows better; an answer ends it
            raise CircuitOpen(held_s, "", held_back=True)
        whole = isinstance(outgoing.body, (bytes, type(None)))
        # A trial may last as long as the deadline, which stands still while its body arrives.
        return breaker.admit(deadline.remaining_s() + _TRIAL_GRACE_S, outgoing.share_key, whole=whole)

    # Retry

    async def _again(self, call: Call, outcome: Answer | GatewayError, wait_s: float | None) -> Answer | GatewayError:
        """The outcome of the last attempt, the first one having ended with `outcome`."""
        attempt = 1
        while wait_s is not None:
            ended = await self._pause(call, wait_s, outcome)
            if ended is not None:
                return ended
            call.record.retries += 1
            if not call.moves:
                attempt += 1
                self._observer.retry(self.name, attempt, self.resilience.retry.attempts, _code(outcome))
            outcome = await self._attempt(call, attempt)
            wait_s = self._wait_s(call, attempt, outcome)
        return outcome

    def _wait_s(self, call: Call, attempt: int, outcome: Answer | GatewayError) -> float | None:
        """Seconds until the next attempt, None if there is none. What the origin did counts for it, either way."""
        if isinstance(outcome, GatewayError):
            asked_s = 0.0
            failed = not call.says_nothing(outcome)
            # Safe to repeat: no byte was sent, or sending twice does no harm.
            repeatable = call.replayable or not outcome.sent
            wanted = repeatable and _repeatable(outcome)
        else:
            if outcome.status < 400:  # nothing to wait for: the usual way out
                return None
            asked_s = retry_after_s(_field(outcome.headers, b"retry-after"), self._wall()) or 0.0
            failed = outcome.status in self.resilience.failure_statuses
            repeatable = call.replayable
            wanted = repeatable and outcome.status in self.resilience.retry.on
        if failed:
            call.went_wrong(_code(outcome), self._clock())
        call.moves = failed and repeatable and self._moves_on(call)
        wait_s = 0.0 if call.moves else self._allowed_s(call, attempt, asked_s) if wanted else None
        if asked_s and not isinstance(outcome, GatewayError):
            self._hold_back(call, outcome.status, asked_s)
        return wait_s

    def _moves_on(self, call: Call) -> bool:
        """Whether the request tries another origin now."""
        if call.moved or call.member is None or not self.upstream.elsewhere(call):
            return False
        if call.deadline.remaining_s() <= 0 or not _still_admitted(call.ticket) or not self._has_retry(call):
            return False
        # To another origin once, at once, beside the attempts but within the budget.
        call.moved = True
        return True

    def _allowed_s(self, call: Call, attempt: int, asked_s: float) -> float | None:
        """The pause before a further attempt, if attempts, deadline, circuit and budget allow one."""
        retry = self.resilience.retry
        if attempt >= retry.attempts:
            return None
        wait_s = backoff_s(retry, attempt)
        if asked_s > wait_s and (call.member is None or not self.upstream.elsewhere(call)):
            wait_s = asked_s
        # A circuit that opened meanwhile ends the retrying.
        if wait_s >= call.deadline.remaining_s() or not _still_admitted(call.ticket):
            return None
        return wait_s if self._has_retry(call) else None

    def _has_retry(self, call: Call) -> bool:
        return self._budget.try_retry(call.subject)

    def _hold_back(self, call: Call, status: int, asked_s: float) -> None:
        """Obey a `Retry-After` from now on."""
        # A 503 holds back the origin; a 429 the subject, or all where the credentials are ours.
        if status == _UNAVAILABLE:
            self.upstream.hold(call, asked_s)
        elif status == _TOO_MANY and self.auth is None:
            self.breaker.hold_back(call.subject, asked_s)
        elif status == _TOO_MANY:
            self.breaker.set_aside(asked_s)

    async def _pause(self, call: Call, wait_s: float, outcome: Answer | GatewayError) -> Answer | GatewayError | None:
        """Wait. None: go on with the next attempt; else the circuit opened meanwhile, and this is the outcome.

        An answer that is still arriving is let go of before, so that nobody waits in vain for its connection.
        """
        if isinstance(outcome, GatewayError) or outcome.arrived:
            await asyncio.sleep(wait_s)
            return None if _still_admitted(call.ticket) else outcome
        await outcome.aclose()
        await asyncio.sleep(wait_s)
        try:
            call.ticket.still_open()
        except CircuitOpen as refusal:
            self._judge_status(call, outcome.status)
            return _refused(refusal)
        return None

    # Attempt

    async def _attempt(self, call: Call, attempt: int) -> Answer | GatewayError:
        """One attempt in its span. Returns what went wrong instead of raising it; a cancelled caller is raised."""
        observer, name, method = self._observer, self.upstream.name, call.outgoing.method.decode("ascii")
        span = observer.attempt_started(call.span, name, method, attempt)
        begun_s = self._clock()
        status, code = 0, ""
        try:
            if self.auth is None:
                outgoing = call.outgoing
                if span.traceparent is not None and not (outgoing.traced and span is call.span):
                    outgoing = _dressed(outgoing, span, None)
                answer = await self.upstream.exchange(
                    outgoing, timeouts=self.resilience.timeout, deadline=call.deadline
                )
            else:
                answer = await self._send_with(self.auth, call, span)
            status = answer.status
            return answer
        except GatewayError as error:
            failure = _named(error, call.deadline)
            code = failure.code
            return failure
        except asyncio.CancelledError:
            if not call.deadline.expired:
                raise
            failure = _too_late(None)
            code = failure.code
            return failure
        finally:
            server = NO_SERVER if call.member is None else call.member.server
            if span.sampled:
                span.set("url.full", server.url + _path(call.outgoing.target))
            observer.attempt_ended(span, name, method, status, code, self._clock() - begun_s, server)

    async def _send_with(self, auth: Credentials, call: Call, span: Span) -> Answer:
        """Send with our credentials, renewed once if they are refused, and with the attempt's trace context."""
        timeouts, deadline = self.resilience.timeout, call.deadline
        credentials = await auth.headers(deadline)
        outgoing = _dressed(call.outgoing, span, credentials)
        answer = await self.upstream.exchange(outgoing, timeouts=timeouts, deadline=deadline)
        if answer.status != _UNAUTHORIZED:
            return answer
        # Credentials of our own are renewed once, and the request is tried once more, uncounted.
        auth.rejected()
        if not isinstance(outgoing.body, (bytes, type(None))):
            return answer
        try:
            renewed = await auth.renewed(deadline)
        except BaseException as error:
            await answer.aclose()
            raise error
        if renewed == credentials:
            return answer
        await answer.aclose()
        return await self.upstream.exchange(
            _dressed(call.outgoing, span, renewed), timeouts=timeouts, deadline=deadline
        )

    # Breaker

    def _judge(self, answer: Answer, call: Call, *, by_head: bool) -> Answer:
        """Settle the ticket now, or when the body has ended."""
        # A trial and an event stream are judged by the head, other responses by their end.
        if by_head or answer.arrived or answer.status in self.resilience.failure_statuses:
            self._judge_status(call, answer.status)
        elif self.streams.matches(answer.headers):
            call.well()
        else:
            return Judged(answer, call, self._clock)
        return answer

    def _judge_status(self, call: Call, status: int) -> None:
        # Statuses that are no failures are successes: the upstream answered.
        if status in self.resilience.failure_statuses:
            call.ticket.failure(f"http_{status}")
        else:
            call.well()

    def _judge_error(self, call: Call, error: GatewayError) -> None:
        # A caller who left or was slow, and our own overload, say nothing about the upstream.
        if call.says_nothing(error):
            call.ticket.neutral()
        else:
            call.ticket.failure(error.code)


def _still_admitted(ticket: Ticket) -> bool:
    try:
        ticket.still_open()
    except CircuitOpen:
        return False
    return True


def _repeatable(error: GatewayError) -> bool:
    return error.code in _RETRIED or error.proxy_error in _LOST


def _code(outcome: Answer | GatewayError) -> str:
    return outcome.code if isinstance(outcome, GatewayError) else f"http_{outcome.status}"


def _field(headers: Headers, name: bytes) -> bytes | None:
    return next((value for key, value in headers if key == name), None)


def _refused(refusal: CircuitOpen) -> GatewayError:
    if refusal.held_back:
        return held_back(refusal.retry_after_s)
    return GatewayError(
        "upstream_circuit_open",
        retry_after_s=refusal.retry_after_s,
        sent=False,
        reason=f"last failure: {refusal.cause_code}" if refusal.cause_code else "",
    )


def _path(target: bytes) -> str:
    """What a span may say of it: a query may hold secrets."""
    return target.partition(b"?")[0].decode("latin-1")


def _named(error: GatewayError, deadline: Deadline) -> GatewayError:
    """A timeout that is the deadline's end is called by its name."""
    if error.code == "upstream_timeout" and deadline.remaining_s() <= _LAST_INSTANT_S:
        return _too_late(error)
    return error


def _too_late(cause: GatewayError | None) -> GatewayError:
    return GatewayError("deadline_exceeded", reason=cause.reason if cause else "")


def _dressed(outgoing: Outgoing, span: Span, credentials: Headers | None) -> Outgoing:
    """The request of one attempt: with our credentials in place of the caller's, and the attempt's trace context."""
    headers = outgoing.headers
    if credentials is not None:
        headers = [header for header in headers if header[0] not in _CREDENTIALS] + credentials
    if span.traceparent is not None:
        if b"traceparent" in dict(headers):
            headers = [header for header in headers if header[0] != b"traceparent"]
        headers = [*headers, (b"traceparent", span.traceparent)]
    return Outgoing(
        outgoing.method,
        outgoing.target,
        headers,
        outgoing.body,
        outgoing.content_length,
        fresh=outgoing.fresh,
        share_key=outgoing.share_key,
        journey=outgoing.journey,
    )
