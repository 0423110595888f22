"""The one client of IAM: questions in, decisions out, in as few calls as possible."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from gateway.errors import GatewayError
from gateway.iam.batching import Ask, Key, Pending, Waiting
from gateway.iam.call import Call, Means
from gateway.iam.discovery import BatchLimit
from gateway.iam.failure import CallFailure, CallRecord, fault
from gateway.iam.proof import Proof
from gateway.iam.servers import Servers
from gateway.iam.suspects import HELD_S, Suspects
from gateway.model.permit import Decision, Question, unknown
from gateway.model.settings import IamSettings
from gateway.resilience.admission import ConcurrencyLimit
from gateway.resilience.breaker import CLOSED, Breaker
from gateway.resilience.deadline import Deadline, ticks_of
from gateway.resilience.probe import probe_loop
from gateway.resilience.retry import RetryBudget
from gateway.telemetry.observer import Observer, Span

# What may be asked for decisions: IAM over the network, or the embedded policies.


class DecisionPoint(Protocol):
    """Answers questions. It never raises for its own failures: such an answer is UNKNOWN, with its fault."""

    async def decide(
        self, questions: Sequence[Question], *, deadline: Deadline, request_id: str, span: Span
    ) -> list[Decision]:
        """One decision for each question, in the same order, within the deadline."""

    async def aclose(self) -> None:
        """Let go of what it holds. Who still waits is told that nothing is known."""


_LAST_INSTANT_S: Final = 0.005  # whoever enforces the deadline may cancel a hair before it ends
_KEPT_FREE: Final = 4  # one subject's calls leave a quarter of the places, or one, to the others
_TRIAL_MARGIN_S: Final = 1.0  # a trial ends by `timeout.total`; the breaker's limit is for one that is lost


class Iam:
    """See DecisionPoint. `servers` speak the protocol; `breaker` outlives this object on a reload."""

    def __init__(
        self,
        servers: Servers,
        settings: IamSettings,
        *,
        breaker: Breaker,
        observer: Observer,
        budget: RetryBudget,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = servers
        self._settings = settings
        self._breaker = breaker
        self._observer = observer
        self._places = ConcurrencyLimit(settings.max_concurrency)
        self._record = CallRecord()
        self._proof = Proof(breaker, self.probe)
        self._limit = BatchLimit(clock)
        self._suspects = Suspects()
        self._means = Means(
            servers,
            settings,
            breaker,
            budget,
            self._proof,
            self._limit,
            self._places,
            self._record,
            observer,
            self._schedule,
            self._suspects,
        )
        self._waiting = Waiting(settings.max_queue)
        self._most_of_one = max(1, settings.max_concurrency - max(1, settings.max_concurrency // _KEPT_FREE))
        self._most_of_suspects = max(1, settings.max_concurrency // 2)
        self._held: dict[str, int] = {}
        self._barred: set[str] = set()
        self._pendings: dict[Key, Pending] = {}
        self._calls: dict[asyncio.Task[None], Call] = {}
        self._scheduled = False
        self._shown = 0
        self._prober: asyncio.Task[None] | None = None
        self.probe_cause = ""

    async def decide(
        self, questions: Sequence[Question], *, deadline: Deadline, request_id: str, span: Span
    ) -> list[Decision]:
        """One decision for each question, in the same order; UNKNOWN with its fault where IAM could not answer."""
        if self._breaker.state != CLOSED:
            # While the circuit refuses, every question is answered at once and no call is made.
            refusal_s = self._breaker.refusal_s()
            if refusal_s > 0:
                return [unknown(_circuit_open(refusal_s))] * len(questions)
        if deadline.remaining_s() <= 0:
            return [unknown(_too_late())] * len(questions)
        loop = deadline.loop
        ask = Ask(len(questions), request_id, span, loop.create_future(), self._expire)
        for index, question in enumerate(questions):
            self._put(ask, index, question)
        if not ask.left:
            return ask.decisions
        tick = ticks_of(loop).set(deadline.at_s, ask)
        try:
            await ask.done
        except asyncio.CancelledError:
            self._leave(ask, hung_up=deadline.remaining_s() > _LAST_INSTANT_S)
            raise
        finally:
            tick.pop(ask, None)
        return ask.decisions

    async def probe(self) -> str:
        """Ask one harmless question, past queue and breaker. The failure's code, or an empty string.

        `probe_cause` says afterwards what was wrong.
        """
        self.probe_cause = ""
        try:
            async with asyncio.timeout(self._settings.timeout.total_s):
                await self._servers.probe()
        except CallFailure as failure:
            self.probe_cause = failure.reason
            return failure.code if failure.counts else ""
        except TimeoutError:
            self.probe_cause = f"no answer within {self._settings.timeout.total_s:g}s"
            return "iam_timeout"
        self._record.answered()
        return ""

    async def look(self) -> dict[str, CallFailure | None]:
        """What is wrong with each url now, by asking; None: nothing."""
        return await self._servers.look()

    def snapshot(self) -> dict[str, Any]:
        """What the status page shows: queue, calls in flight, calls in all, last error, each url."""
        return {
            "queue": len(self._waiting),
            "in_flight": self._places.in_use,
            **self._record.snapshot(),
            "urls": self._servers.snapshot(),
        }

    async def aclose(self) -> None:
        """Answer who still waits (unknown, never degrading) and end every call. The transport is its owner's."""
        tasks = [*self._calls]
        if self._prober is not None:
            tasks.append(self._prober)
        self._waiting.take_all()
        for pending in list(self._pendings.values()):
            pending.resolve(unknown(fault("iam_overloaded", "the client of IAM was closed")))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self._proof.aclose(), self._servers.aclose(), return_exceptions=True)

    def _put(self, ask: Ask, index: int, question: Question) -> None:
        key = question.key
        pending = self._pendings.get(key)
        if pending is None:
            free = (self._places.limit - self._places.in_use) * self._servers.max_size
            if self._waiting.full(free) and not self._make_room(key[0]):
                ask.answer(index, unknown(_overloaded()))
                return
            pending = Pending(question, key, self._pendings, ask)
            self._waiting.add(pending)
            self._schedule()
        pending.join(ask, index)

    def _make_room(self, subject: str) -> bool:
        """The queue is full: whether somebody else's question has to go."""
        surplus = self._waiting.surplus(subject)
        if surplus is None:
            return False
        self._waiting.drop(surplus)
        surplus.resolve(unknown(_overloaded()))
        return True

    def _expire(self, ask: Ask) -> None:
        for index in self._leave(ask, hung_up=False):
            ask.answer(index, unknown(_too_late()))

    def _leave(self, ask: Ask, *, hung_up: bool) -> list[int]:
        """`ask` waits no longer. The indices of the questions that it got no answer to."""
        left = ask.leave()
        for pending in dict.fromkeys(pending for pending, _ in left):  # it may have asked the same twice
            # The call goes on for the others: a caller who leaves takes only its own wait along.
            if pending.waiters:
                continue
            if pending.call is None:
                self._waiting.drop(pending)
                pending.forget()
            else:
                # After a deadline the call goes on, as what IAM does still says how it is; it ends if all hung up.
                pending.call.left(hung_up=hung_up)
        self._show()
        return [index for _, index in left]

    def _schedule(self) -> None:
        """Look at what waits before the event loop turns again: whatever else is asked in this turn goes along."""
        if not self._scheduled:
            self._scheduled = True
            # No timer: waiting for more questions would add latency.
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        while self._waiting:
            refusal_s = self._breaker.refusal_s()
            if refusal_s > 0:
                self._refuse_all(refusal_s)
            # No more than `max_concurrency` calls: the rest waits, and leaves when a place is free.
            elif not self._places.try_acquire():
                break
            elif not self._send():
                self._places.release()
                break
        self._show()

    def _send(self) -> bool:
        """Start the next call, in a place that is ours. False if only those wait who have calls enough."""
        most, suspects, barred = self._limit.of(self._servers.max_size), self._suspects, self._barred
        if suspects:
            suspects.forget_before(asyncio.get_running_loop().time() - HELD_S)
            if sum(self._held.get(each, 0) for each in suspects) >= self._most_of_suspects:
                barred = barred | suspects.keys()
        batch = self._waiting.take(most, barred, suspects)
        if not batch:
            return False
        ticket = self._breaker.admit(self._settings.timeout.total_s + _TRIAL_MARGIN_S, batch[0].key[0])
        self._start(Call(self._means, batch, ticket))
        return True

    def _refuse_all(self, refusal_s: float) -> None:
        for pending in self._waiting.take_all():
            pending.resolve(unknown(_circuit_open(refusal_s)))

    def _start(self, call: Call) -> None:
        task = asyncio.get_running_loop().create_task(call.run())
        call.task = task
        self._calls[task] = call
        self._hold(call.subject, 1)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._places.release()
        call = self._calls.pop(task)
        call.close()
        self._hold(call.subject, -1)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._observer.bug("iam", bug)
        if self._waiting:
            self._flush()
        if self._breaker.state != CLOSED:
            self._probe_by_itself()

    def _hold(self, subject: str, calls: int) -> None:
        """One more or less call of one subject alone."""
        if not subject:
            return
        held = self._held.get(subject, 0) + calls
        if held:
            self._held[subject] = held
        else:
            del self._held[subject]
        # The calls of one subject alone leave some places to the others.
        if held >= self._most_of_one:
            self._barred.add(subject)
        elif self._barred:
            self._barred.discard(subject)

    def _probe_by_itself(self) -> None:
        """From the first failure on there is a task that tries, where the policy says `probe`."""
        interval_s = self._settings.breaker.probe_s
        if interval_s is not None and self._prober is None:
            self._prober = asyncio.get_running_loop().create_task(
                probe_loop(self._breaker, self._probe_until_known, interval_s, believed=lambda: self._proof.believed)
            )

    async def _probe_until_known(self) -> str:
        """While one probe is silent, the next goes out beside it: IAM may be back, and that one never answered."""
        interval_s = self._settings.breaker.probe_s
        asked: set[asyncio.Task[str]] = set()
        try:
            while True:
                asked.add(asyncio.get_running_loop().create_task(self.probe()))
                over, _ = await asyncio.wait(asked, timeout=interval_s, return_when=asyncio.FIRST_COMPLETED)
                if over:
                    return min(task.result() for task in over)
        finally:
            for task in asked:
                task.cancel()

    def _show(self) -> None:
        if len(self._waiting) != self._shown:
            self._shown = len(self._waiting)
            self._observer.iam_queue(self._shown)


def _circuit_open(refusal_s: float) -> GatewayError:
    return fault("iam_circuit_open", "the circuit of IAM is open", refusal_s)


def _overloaded() -> GatewayError:
    return fault("iam_overloaded", "iam.max_queue")


def _too_late() -> GatewayError:
    return fault("iam_timeout", "the request's deadline ended before IAM answered")
