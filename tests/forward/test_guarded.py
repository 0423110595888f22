"""The layers around an attempt: what counts, what is retried, what is set aside. No sockets, no waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.model.request import AccessRecord, Headers
from gateway.model.route import BreakerPolicy, Resilience, RetryPolicy
from gateway.resilience.breaker import Breaker
from gateway.resilience.deadline import Deadline
from gateway.resilience.retry import RetryBudget
from gateway.telemetry.observer import NO_SPAN, Span
from gateway.upstream.call import Journey
from gateway.upstream.failures import HeldBack, QueuedTooLong
from gateway.upstream.guarded import GuardedUpstream
from gateway.upstream.outgoing import Outgoing
from tests.forward.conftest import Spy

RETRY = RetryPolicy(attempts=3, backoff_s=0.0)


class FakeAnswer:
    def __init__(self, status: int, *fields: tuple[bytes, bytes], arrived: bool = True, breaks: Any = None) -> None:
        self.status = status
        self.headers: Headers = list(fields)
        self.content_length = None
        self.arrived = arrived
        self.closed = False
        self._breaks = breaks

    def whole(self) -> bytes | None:
        return b"ok" if self.arrived else None

    def allow_silence(self, seconds: float) -> None: ...

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"o"
        if self._breaks is not None:
            raise self._breaks

    async def read(self, limit: int) -> bytes:
        return b"".join([chunk async for chunk in self])

    async def aclose(self) -> None:
        self.closed = True


class FakeCaller:
    """Gives one outcome after the other; remembers what was sent."""

    name = "store"
    several = False
    holds = True

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.sent: list[Outgoing] = []
        self.held: list[float] = []

    def held_s(self) -> float:
        return max(self.held, default=0.0)

    def hold(self, journey: Journey, seconds: float) -> None:
        self.held.append(seconds)

    def elsewhere(self, journey: Journey) -> bool:
        return False

    async def exchange(self, outgoing: Outgoing, *, timeouts: Any, deadline: Deadline) -> Any:
        self.sent.append(outgoing)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return await outcome() if callable(outcome) else outcome


class FakeCredentials:
    def __init__(self, *tokens: bytes) -> None:
        self.tokens = list(tokens)

    async def headers(self, deadline: Deadline) -> Headers:
        return [(b"authorization", self.tokens[0])]

    def rejected(self) -> None:
        if len(self.tokens) > 1:
            self.tokens.pop(0)

    renewed = headers

    async def aclose(self) -> None: ...


def refused() -> GatewayError:
    return GatewayError("upstream_unreachable", sent=False)


def lost() -> GatewayError:
    return GatewayError("upstream_protocol_error", proxy_error="connection_terminated")


def garbled() -> GatewayError:
    return GatewayError("upstream_protocol_error")


def timed_out() -> GatewayError:
    return GatewayError("upstream_timeout")


class World:
    """A guarded upstream over outcomes."""

    def __init__(
        self, *outcomes: Any, retry: RetryPolicy = RETRY, threshold: int = 5, auth: Any = None, budget: Any = None
    ) -> None:
        self.caller = FakeCaller(*outcomes)
        self.spy = Spy()
        self.now = 100.0
        policy = BreakerPolicy(failure_threshold=threshold)
        resilience = Resilience(retry=retry, breaker=policy)
        self.breaker = Breaker("inventory", "upstream", policy, observer=self.spy, clock=lambda: self.now)
        self.guarded = GuardedUpstream(
            name="inventory",
            upstream=self.caller,
            resilience=resilience,
            breaker=self.breaker,
            budget=budget or RetryBudget(),
            observer=self.spy,
            auth=auth,
            wall=lambda: 0.0,
        )
        self.record = AccessRecord(started_s=0.0)
        self.deadline_s = 60.0

    async def call(
        self, method: bytes = b"GET", body: Any = None, span: Span = NO_SPAN, headers: Any = (), subject: str = ""
    ) -> Any:
        outgoing = Outgoing(method, b"/x", [(b"host", b"store"), *headers], body, share_key=subject)
        return await self.guarded.exchange(
            outgoing,
            deadline=Deadline.after(self.deadline_s),
            span=span,
            replayable=outgoing.replayable,
            record=self.record,
        )

    @property
    def failures(self) -> int:
        return int(self.breaker.snapshot()["consecutive_failures"])


@pytest.mark.parametrize("outcome", [refused, lost, timed_out, lambda: FakeAnswer(503), lambda: FakeAnswer(502)])
async def test_a_get_is_retried_until_it_succeeds_and_counts_once(outcome: Any) -> None:
    world = World(outcome(), outcome(), FakeAnswer(200))
    answer = await world.call()
    assert answer.status == 200
    assert len(world.caller.sent) == 3
    assert world.failures == 0
    assert world.record.retries == 2
    assert [retry[:3] for retry in world.spy.retries] == [("inventory", 2, 3), ("inventory", 3, 3)]


async def test_three_failed_attempts_are_one_failure() -> None:
    world = World(refused(), refused(), timed_out())
    with pytest.raises(GatewayError, match="upstream_timeout"):
        await world.call()
    assert world.failures == 1
    assert world.breaker.last_failure == "upstream_timeout"


@pytest.mark.parametrize("status", [200, 301, 400, 404, 409, 429, 500])
async def test_other_statuses_are_successes_and_never_retried(status: int) -> None:
    first = FakeAnswer(status)
    world = World(first, FakeAnswer(200), retry=RetryPolicy(attempts=3, backoff_s=0.0))
    world.breaker.admit().failure("upstream_timeout")
    assert world.failures == 1
    assert await world.call() is first
    assert len(world.caller.sent) == 1
    assert world.failures == 0, "an answer ends the row of failures"


@pytest.mark.parametrize(("error", "attempts"), [(refused, 2), (lost, 1), (timed_out, 1), (lambda: FakeAnswer(503), 1)])
async def test_a_post_is_retried_only_if_nothing_was_sent(error: Any, attempts: int) -> None:
    world = World(error(), FakeAnswer(200))
    try:
        await world.call(b"POST", b"body")
    except GatewayError:
        assert attempts == 1
    assert len(world.caller.sent) == attempts


async def test_garbage_is_not_retried() -> None:
    world = World(garbled(), FakeAnswer(200))
    with pytest.raises(GatewayError, match="upstream_protocol_error"):
        await world.call()
    assert world.failures == 1


async def test_our_own_overload_is_neither_retried_nor_counted() -> None:
    world = World(GatewayError("upstream_overloaded", sent=False), FakeAnswer(200))
    with pytest.raises(GatewayError, match="upstream_overloaded"):
        await world.call()
    assert (len(world.caller.sent), world.failures) == (1, 0)


@pytest.mark.parametrize("code", ["bad_request", "request_timeout", "body_too_large"])
async def test_what_the_caller_did_wrong_with_its_body_says_nothing_about_the_upstream(code: str) -> None:
    world = World(GatewayError(code), FakeAnswer(200))
    with pytest.raises(GatewayError, match=code):
        await world.call()
    assert (len(world.caller.sent), world.failures) == (1, 0)


async def test_a_caller_who_leaves_says_nothing_and_frees_the_trials_place() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    world = World(timed_out(), hang, FakeAnswer(200), threshold=1, retry=RetryPolicy())
    with pytest.raises(GatewayError):
        await world.call()
    world.now += 31
    trial = asyncio.create_task(world.call())
    await asyncio.sleep(0)
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    await world.call()
    assert world.breaker.state == "closed"


async def test_an_open_circuit_asks_nobody_and_says_when_to_come_back() -> None:
    world = World(timed_out(), threshold=1, retry=RetryPolicy())
    with pytest.raises(GatewayError):
        await world.call()
    world.now += 10
    with pytest.raises(GatewayError, match="upstream_circuit_open") as caught:
        await world.call()
    assert caught.value.retry_after_s == pytest.approx(20)
    assert caught.value.sent is False
    assert len(world.caller.sent) == 1


async def test_a_circuit_that_opened_meanwhile_ends_the_retrying() -> None:
    world = World(timed_out(), FakeAnswer(200))

    async def fail_and_open() -> None:
        world.breaker.force_open()
        raise timed_out()

    world.caller.outcomes[0] = fail_and_open
    with pytest.raises(GatewayError, match="upstream_timeout"):
        await world.call()
    assert len(world.caller.sent) == 1


async def test_an_unfinished_answer_is_let_go_of_while_waiting_for_the_next_attempt() -> None:
    first = FakeAnswer(503, arrived=False)
    world = World(first, FakeAnswer(200))
    await world.call()
    assert first.closed


async def test_attempts_stop_at_the_policys_number_and_the_last_answer_is_passed_on() -> None:
    world = World(FakeAnswer(503), FakeAnswer(503), FakeAnswer(503), FakeAnswer(200))
    answer = await world.call()
    assert (answer.status, len(world.caller.sent), world.failures) == (503, 3, 1)
    assert world.breaker.last_failure == "http_503"


async def test_the_budget_ends_the_retrying() -> None:
    budget = RetryBudget(ratio=0.0, min_per_s=1.0)
    assert budget.try_retry()
    world = World(timed_out(), FakeAnswer(200), budget=budget)
    with pytest.raises(GatewayError, match="upstream_timeout"):
        await world.call()


async def test_no_attempt_begins_that_could_not_end_before_the_deadline() -> None:
    world = World(timed_out(), FakeAnswer(200), retry=RetryPolicy(attempts=3, backoff_s=40.0, backoff_max_s=40.0))
    world.deadline_s = 10.0
    with pytest.raises(GatewayError, match="upstream_timeout"):
        await world.call()
    assert len(world.caller.sent) == 1


async def test_a_429_holds_back_whose_credentials_were_sent_and_is_passed_on() -> None:
    world = World(FakeAnswer(429, (b"retry-after", b"7")), FakeAnswer(200), FakeAnswer(200), retry=RetryPolicy())
    assert (await world.call(subject="alice")).status == 429
    with pytest.raises(HeldBack, match="upstream_circuit_open") as caught:
        await world.call(subject="alice")
    assert caught.value.retry_after_s == pytest.approx(7)
    assert (await world.call(subject="bob")).status == 200
    world.now += 7.1
    assert (await world.call(subject="alice")).status == 200


async def test_a_429_to_our_own_credentials_holds_back_all() -> None:
    answers = [FakeAnswer(429, (b"retry-after", b"7")), FakeAnswer(200)]
    world = World(*answers, retry=RetryPolicy(), auth=FakeCredentials(b"Bearer ours"))
    await world.call(subject="alice")
    with pytest.raises(HeldBack):
        await world.call(subject="bob")
    world.now += 7.1
    assert (await world.call(subject="bob")).status == 200


async def test_a_503_with_retry_after_holds_back_its_origin_and_is_passed_on() -> None:
    world = World(FakeAnswer(503, (b"retry-after", b"7")), retry=RetryPolicy())
    assert (await world.call(subject="alice")).status == 503
    assert world.caller.held == [7.0]
    with pytest.raises(HeldBack) as caught:
        await world.call(subject="bob")
    assert caught.value.retry_after_s == pytest.approx(7)
    assert len(world.caller.sent) == 1


async def test_an_operator_who_closes_the_circuit_goes_past_what_the_origin_said() -> None:
    world = World(FakeAnswer(503, (b"retry-after", b"7")), FakeAnswer(200), retry=RetryPolicy())
    await world.call()
    world.breaker.force_close()
    assert (await world.call()).status == 200


async def test_a_retry_waits_as_long_as_the_upstream_asked_and_not_beyond_the_deadline() -> None:
    world = World(FakeAnswer(503, (b"retry-after", b"7")), FakeAnswer(200))
    world.deadline_s = 5.0
    assert (await world.call()).status == 503
    assert len(world.caller.sent) == 1


async def test_429_is_never_retried_and_is_a_success() -> None:
    world = World(FakeAnswer(429), FakeAnswer(200))
    assert (await world.call()).status == 429
    assert (len(world.caller.sent), world.failures) == (1, 0)


async def test_a_body_that_breaks_off_is_a_failure() -> None:
    world = World(FakeAnswer(200, arrived=False, breaks=lost()))
    answer = await world.call()
    assert world.failures == 0
    with pytest.raises(GatewayError):
        async for _ in answer:
            pass
    assert world.failures == 1


async def test_a_body_read_to_its_end_is_a_success_and_one_given_up_says_nothing() -> None:
    world = World(timed_out(), FakeAnswer(200, arrived=False), FakeAnswer(200, arrived=False), retry=RetryPolicy())
    with pytest.raises(GatewayError):
        await world.call()
    given_up = await world.call()
    await given_up.aclose()
    assert world.failures == 1
    assert await (await world.call()).read(10) == b"o"
    assert world.failures == 0


async def test_an_upload_its_caller_did_not_finish_does_not_blame_the_answer() -> None:
    world = World(FakeAnswer(200, arrived=False, breaks=GatewayError("bad_request")))
    with pytest.raises(GatewayError):
        await (await world.call()).read(10)
    assert world.failures == 0


async def test_a_trial_is_judged_by_its_head_so_that_a_long_answer_does_not_keep_the_circuit_half_open() -> None:
    world = World(timed_out(), FakeAnswer(200, arrived=False), threshold=1, retry=RetryPolicy())
    with pytest.raises(GatewayError):
        await world.call()
    world.now += 31
    await world.call()
    assert world.breaker.state == "closed"


async def test_an_event_stream_is_judged_by_its_head() -> None:
    stream = FakeAnswer(200, (b"content-type", b"text/event-stream; charset=utf-8"), arrived=False)
    world = World(stream)
    assert await world.call() is stream


@pytest.mark.parametrize(("took_s", "failures"), [(4.9, 0), (5.0, 1)])
async def test_a_deadline_counts_only_if_the_upstream_had_at_least_half_of_it(took_s: float, failures: int) -> None:
    world = World()
    world.guarded._clock = lambda: world.now

    async def silent() -> None:
        world.now += took_s
        raise GatewayError("deadline_exceeded")

    world.caller.outcomes = [silent]
    world.deadline_s = 10.0
    with pytest.raises(GatewayError, match="deadline_exceeded"):
        await world.call()
    assert world.failures == failures


@pytest.mark.parametrize(("kind", "failures"), [(GatewayError, 1), (QueuedTooLong, 0)])
async def test_a_deadline_spent_in_our_queue_says_nothing(kind: type[GatewayError], failures: int) -> None:
    world = World()
    world.guarded._clock = lambda: world.now

    async def late() -> None:
        world.now += 60.0
        raise kind("deadline_exceeded", sent=False)

    world.caller.outcomes = [late]
    with pytest.raises(GatewayError, match="deadline_exceeded"):
        await world.call()
    assert world.failures == failures


async def test_a_timeout_that_is_the_deadlines_end_is_called_so() -> None:
    world = World(timed_out())
    world.deadline_s = 0.0
    with pytest.raises(GatewayError, match="deadline_exceeded"):
        await world.call()


async def test_our_credentials_replace_the_callers_authorization_and_cookies() -> None:
    world = World(FakeAnswer(200), auth=FakeCredentials(b"Bearer ours"))
    await world.call(headers=[(b"authorization", b"Bearer theirs"), (b"cookie", b"a=b"), (b"accept", b"*/*")])
    assert world.caller.sent[0].headers == [
        (b"host", b"store"),
        (b"accept", b"*/*"),
        (b"authorization", b"Bearer ours"),
    ]


async def test_refused_credentials_are_renewed_once_and_the_request_is_tried_once_more_uncounted() -> None:
    first, second = FakeAnswer(401), FakeAnswer(401)
    world = World(first, second, auth=FakeCredentials(b"old", b"new", b"newer"), retry=RetryPolicy())
    answer = await world.call(b"POST", b"body")
    assert answer is second
    assert first.closed
    assert [dict(sent.headers)[b"authorization"] for sent in world.caller.sent] == [b"old", b"new"]
    assert world.record.retries == 0


async def test_credentials_that_cannot_change_are_not_tried_twice() -> None:
    world = World(FakeAnswer(401), auth=FakeCredentials(b"fixed"))
    assert (await world.call()).status == 401
    assert len(world.caller.sent) == 1


async def test_the_attempts_trace_context_is_sent_in_place_of_any_other() -> None:
    class Tracing(Spy):
        def attempt_started(self, parent: Span, upstream: str, method: str, attempt: int) -> Span:
            return Span(b"00-trace-%d-01" % attempt)

    world = World(timed_out(), FakeAnswer(200))
    world.guarded._observer = Tracing()
    await world.call(headers=[(b"traceparent", b"theirs"), (b"tracestate", b"a=b")])
    sent = [dict(outgoing.headers)[b"traceparent"] for outgoing in world.caller.sent]
    assert sent == [b"00-trace-1-01", b"00-trace-2-01"]
    assert dict(world.caller.sent[0].headers)[b"tracestate"] == b"a=b"


async def test_the_record_tells_where_the_request_went() -> None:
    world = World(FakeAnswer(200))
    await world.call()
    assert world.record.upstream == "store"
    assert world.record.upstream_s > 0
    assert world.spy.attempts == [(200, "")]


class SlowCaller:
    """A request body of which every part takes its time, by the test's deadline."""

    def __init__(self, deadline: Deadline, seconds: float) -> None:
        self.deadline = deadline
        self.seconds = seconds

    def __aiter__(self) -> SlowCaller:
        return self

    async def __anext__(self) -> bytes:
        self.deadline.excuse()
        await asyncio.sleep(self.seconds)
        self.deadline.excuse_ends()
        return b"part"


@pytest.mark.parametrize(("caller_s", "failures"), [(0.15, 0), (0.0, 1)])
async def test_what_breaks_while_its_caller_is_the_slow_one_says_nothing(caller_s: float, failures: int) -> None:
    world = World()
    world.guarded._clock = asyncio.get_running_loop().time
    deadline = Deadline.after(60)
    body = SlowCaller(deadline, caller_s)

    async def cut_off() -> None:
        await anext(body)
        raise lost()

    world.caller.outcomes = [cut_off]
    outgoing = Outgoing(b"POST", b"/x", [], body)
    with pytest.raises(GatewayError, match="upstream_protocol_error"):
        await world.guarded.exchange(outgoing, deadline=deadline, span=NO_SPAN, replayable=False, record=world.record)
    assert world.failures == failures


@pytest.mark.parametrize(("unread_s", "failures"), [(0.15, 0), (0.0, 1)])
async def test_a_body_that_breaks_off_while_nobody_reads_it_says_nothing(unread_s: float, failures: int) -> None:
    world = World(FakeAnswer(200, arrived=False, breaks=lost()))
    world.guarded._clock = asyncio.get_running_loop().time
    answer = await world.call()
    parts = aiter(answer)
    await anext(parts)
    await asyncio.sleep(unread_s)
    with pytest.raises(GatewayError):
        await anext(parts)
    assert world.failures == failures


async def test_time_in_our_own_queue_is_not_the_upstreams() -> None:
    world = World()
    world.guarded._clock = asyncio.get_running_loop().time
    deadline = Deadline.after(0.2)

    async def queued_first() -> None:
        deadline.excuse()
        await asyncio.sleep(0.15)
        deadline.excuse_ends()
        await asyncio.sleep(0.05)
        raise GatewayError("deadline_exceeded")

    world.caller.outcomes = [queued_first]
    with pytest.raises(GatewayError, match="deadline_exceeded"):
        await world.guarded.exchange(
            Outgoing(b"GET", b"/x", []), deadline=deadline, span=NO_SPAN, replayable=True, record=world.record
        )
    assert world.failures == 0
