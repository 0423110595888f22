"""One call to IAM on behalf of many: its attempts, what is asked apart when it fails, and what the breaker learns.

Rules: everything ends within `timeout.total`. An attempt that may help is repeated after a growing pause (or IAM's
`Retry-After`, where that fits in), within the budget, and only while the circuit is closed or this is its trial. When a
batch fails and one of its questions may be the cause, they are asked apart, each once: a rejection is a healthy IAM's
answer, so all of them are asked; after a failure only as long as the budget has a retry for what fails again. That
bounds it: a call never costs IAM more than asking without batches would have, and a failing IAM a fifth more.
The trial of a half-open circuit is one attempt, and is asked apart only when IAM answers that it rejects the batch.
The breaker counts once: a success if anything was decided, else the last failure that counts, else nothing. What fails
alone while others are decided is `isolated`: the question's fault and not IAM's, so it never degrades.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.iam.api import Api
from gateway.iam.asking import Pending
from gateway.iam.failure import Apart, CallFailure, fault
from gateway.iam.record import CallRecord
from gateway.iam.wire import Note
from gateway.model.question import Decision, unknown
from gateway.model.settings import IamSettings
from gateway.resilience.breaker import CLOSED, Breaker, CircuitOpen, Ticket
from gateway.resilience.budget import RetryBudget
from gateway.resilience.limit import ConcurrencyLimit
from gateway.resilience.retry import backoff_s
from gateway.telemetry.observer import Observer

_TARGET: Final = "iam"
_TOO_LATE: Final = "no answer within timeout.total"


@dataclass(frozen=True, slots=True)
class Means:
    """What every call of one client uses. `places` are `max_concurrency`; `freed` is told when one became free."""

    api: Api
    settings: IamSettings
    breaker: Breaker
    budget: RetryBudget
    places: ConcurrencyLimit
    record: CallRecord
    observer: Observer
    freed: Callable[[], None]


class Call:
    """One admitted call. `waited_for` counts its open questions that somebody waits for."""

    __slots__ = (
        "_batch",
        "_decided",
        "_failed",
        "_failure",
        "_kept",
        "_means",
        "_ticket",
        "_trial",
        "_until_s",
        "task",
        "waited_for",
    )

    def __init__(self, means: Means, batch: Sequence[Pending], ticket: Ticket) -> None:
        self._means = means
        self._batch = batch
        self._ticket = ticket
        self._trial = means.breaker.state != CLOSED
        self._decided = False
        self._failed: list[tuple[Pending, CallFailure]] = []
        self._failure: CallFailure | None = None
        self._until_s = 0.0
        self._kept = False
        self.waited_for = len(batch)
        self.task: asyncio.Task[None] | None = None
        for pending in batch:
            pending.call = self

    async def run(self) -> None:
        """Ask, and answer every question of the batch. Raises nothing but cancellation."""
        self._until_s = asyncio.get_running_loop().time() + self._means.settings.timeout.total_s
        try:
            async with asyncio.timeout_at(self._until_s):
                self._means.budget.request()
                await self._ask(self._batch, 1 if self._trial else self._means.settings.retry.attempts)
        except TimeoutError:
            self._fail(self._open(), CallFailure("iam_timeout", _TOO_LATE))
        except asyncio.CancelledError:
            self._ticket.neutral()
            raise
        except Exception as error:  # noqa: BLE001 - a bug here must still answer everybody, and permit nobody
            self._means.observer.bug("iam", error)
            self._fail(self._open(), CallFailure("internal_error", "a bug in asking IAM"))
        self._settle()

    def left(self, *, hung_up: bool) -> None:
        """Nobody waits for one of the questions any more. When all hung up the call ends, and nothing was learnt."""
        self.waited_for -= 1
        self._kept = self._kept or not hung_up
        if self.waited_for or self._kept or self.task is None:
            return
        for pending in self._batch:
            pending.forget()
        self.task.cancel()

    def close(self) -> None:
        """Its task is over, however it went: nothing stays unsettled, nobody unanswered."""
        self._ticket.neutral()
        for pending in self._batch:
            if pending.known:
                pending.resolve(unknown(fault("internal_error", "a call to IAM ended without an answer")))
        self._batch = ()  # its questions know it

    def _settle(self) -> None:
        if self._decided:
            self._ticket.success()
        elif self._failure is not None:
            self._ticket.failure(self._failure.code)
        else:
            self._ticket.neutral()
        remaining_s = self._means.breaker.remaining_s()
        for pending, failure in self._failed:
            after_s = max(remaining_s, failure.retry_after_s or 0.0) or None
            error = fault(failure.code, failure.reason, after_s)
            pending.resolve(unknown(error, isolated=self._decided))

    async def _ask(self, batch: Sequence[Pending], attempts: int) -> bool:
        """Ask, apart if need be. Whether the batch as a whole was answered."""
        try:
            decisions = await self._attempts(batch, attempts)
        except CallFailure as failure:
            if len(batch) > 1 and self._may_be_one_of_them(failure):
                await self._ask_apart(batch, failure)
            else:
                self._fail(batch, failure)
            return False
        self._decided = True
        some = any(decision.fault is None for decision in decisions)
        for pending, decision in zip(batch, decisions, strict=True):
            pending.resolve(replace(decision, isolated=True) if some and decision.fault is not None else decision)
        return True

    async def _attempts(self, batch: Sequence[Pending], attempts: int) -> list[Decision]:
        attempt = 1
        while True:
            try:
                return await self._attempt(batch)
            except CallFailure as failure:
                if attempt >= attempts or not await self._retry(failure, attempt):
                    raise
            attempt += 1

    async def _retry(self, failure: CallFailure, attempt: int) -> bool:
        """Wait for the next attempt, if there is to be one."""
        means = self._means
        wait_s = max(backoff_s(means.settings.retry, attempt), failure.retry_after_s or 0.0)
        in_time = asyncio.get_running_loop().time() + wait_s < self._until_s
        if not failure.retryable or not in_time or not means.budget.try_retry():
            return False
        await asyncio.sleep(wait_s)
        if not self._admitted():
            return False
        means.observer.retry(_TARGET, attempt + 1, means.settings.retry.attempts, failure.code)
        return True

    async def _attempt(self, batch: Sequence[Pending]) -> list[Decision]:
        """One exchange with IAM: a span, a metric, an entry of the record."""
        means = self._means
        asks = list(dict.fromkeys(ask for pending in batch for ask, _ in pending.waiters))
        span = means.observer.iam_call_started(len(batch), [ask.span for ask in asks], means.api.operation)
        note = Note(asks[0].request_id if asks else "", span.traceparent)
        started_s = time.perf_counter()
        code, reason = "", ""
        try:
            return await means.api.ask([pending.question for pending in batch], note)
        except CallFailure as failure:
            code, reason = failure.code, failure.reason
            raise
        except asyncio.CancelledError:
            if asyncio.get_running_loop().time() >= self._until_s:
                code, reason = "iam_timeout", _TOO_LATE
            raise
        finally:
            taken_s = time.perf_counter() - started_s
            means.record.add(code, reason)
            means.observer.iam_call_ended(span, len(batch), code, taken_s)

    async def _ask_apart(self, batch: Sequence[Pending], failure: CallFailure) -> None:
        """Ask the parts of a failed batch; side by side, as far as places are free, once IAM is known to answer."""
        parts = _parts(batch, failure.apart)
        async with asyncio.TaskGroup() as group:
            while parts:
                if self._decided or not failure.counts:
                    self._invite(group, parts, failure)
                await self._ask_part(parts.popleft(), failure)

    def _invite(self, group: asyncio.TaskGroup, parts: deque[Sequence[Pending]], failure: CallFailure) -> None:
        for _ in range(len(parts) - 1):
            if not self._means.places.try_acquire():
                return
            group.create_task(self._help(parts, failure))

    async def _help(self, parts: deque[Sequence[Pending]], failure: CallFailure) -> None:
        try:
            while parts:
                await self._ask_part(parts.popleft(), failure)
        finally:
            self._means.places.release()
            self._means.freed()

    async def _ask_part(self, part: Sequence[Pending], failure: CallFailure) -> None:
        if not self._worth_asking(failure):
            self._fail(part, failure)
        elif not await self._ask(part, 1) and failure.counts:
            self._means.budget.try_retry()

    def _may_be_one_of_them(self, failure: CallFailure) -> bool:
        """Whether one question may be the cause. The trial that IAM fails is over: it was the one call."""
        return failure.apart is not Apart.NO and not (self._trial and failure.counts)

    def _worth_asking(self, failure: CallFailure) -> bool:
        if failure.counts and not self._means.budget.available():
            return False
        return self._admitted()

    def _admitted(self) -> bool:
        try:
            self._ticket.still_open()
        except CircuitOpen:
            return False
        return True

    def _open(self) -> list[Pending]:
        """The questions of the batch that have no answer and no failure yet: also those that nobody waits for now."""
        failed = {pending.key for pending, _ in self._failed}
        return [pending for pending in self._batch if pending.known and pending.key not in failed]

    def _fail(self, batch: Sequence[Pending], failure: CallFailure) -> None:
        self._failed += [(pending, failure) for pending in batch]
        if failure.counts:
            self._failure = failure


def _parts(batch: Sequence[Pending], apart: Apart) -> deque[Sequence[Pending]]:
    size = 1 if apart is Apart.SINGLY else (len(batch) + 1) // 2
    return deque(batch[start : start + size] for start in range(0, len(batch), size))
