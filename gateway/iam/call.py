"""One call to IAM on behalf of many: its attempts, what is asked apart when it fails, and what the breaker learns."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.iam.batching import Pending
from gateway.iam.discovery import BatchLimit
from gateway.iam.failure import OK, Apart, CallFailure, CallRecord, fault
from gateway.iam.http import Note
from gateway.iam.proof import Proof
from gateway.iam.servers import Servers
from gateway.iam.suspects import Suspects
from gateway.model.permit import Decision, unknown
from gateway.model.settings import IamSettings
from gateway.resilience.admission import ConcurrencyLimit
from gateway.resilience.breaker import CLOSED, Breaker, CircuitOpen, Ticket
from gateway.resilience.deadline import ticks_of
from gateway.resilience.evidence import Blame
from gateway.resilience.retry import RetryBudget, backoff_s
from gateway.telemetry.observer import Observer

_TARGET: Final = "iam"
_TOO_LATE: Final = "no answer within timeout.total"


@dataclass(frozen=True, slots=True)
class Means:
    """What every call of one client uses. `places` are `max_concurrency`; `freed` is told when one became free."""

    api: Servers
    settings: IamSettings
    breaker: Breaker
    budget: RetryBudget
    proof: Proof
    limit: BatchLimit
    places: ConcurrencyLimit
    record: CallRecord
    observer: Observer
    freed: Callable[[], None]
    suspects: Suspects


class Call:
    """One admitted call. `waited_for` counts its open questions that somebody waits for.

    `subject`: whose it is, empty if it is several subjects'.
    """

    __slots__ = (
        "_alone",
        "_apart",
        "_batch",
        "_began_s",
        "_beside",
        "_decided",
        "_errors",
        "_failed",
        "_failure",
        "_kept",
        "_means",
        "_ticket",
        "_trial",
        "_until_s",
        "subject",
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
        self._errors: list[tuple[Pending, Decision]] = []
        self._failure: CallFailure | None = None
        self._alone: set[Pending] = set()
        self._apart: _Parts | None = None
        self._beside: asyncio.Task[None] | None = None
        self._began_s = self._until_s = 0.0
        self._kept = False
        self.waited_for = len(batch)
        self.task: asyncio.Task[None] | None = None
        self.subject = _one_of(batch)
        for pending in batch:
            pending.call = self

    async def run(self) -> None:
        """Ask, and answer every question of the batch. Raises nothing but cancellation."""
        loop, limits = asyncio.get_running_loop(), self._means.settings.timeout
        self._began_s = loop.time()
        self._until_s = self._began_s + limits.total_s
        tick = ticks_of(loop).set(self._began_s + min(limits.read_s, limits.total_s) / 2, self)
        try:
            await self._ask_in_time()
            if self._decided and not self._failed and not self._errors:
                self._ticket.success()
            else:
                await self._settle()
        except asyncio.CancelledError:
            self._ticket.neutral()
            raise
        finally:
            tick.pop(self, None)

    def ring(self) -> None:
        """Half of the time that IAM may be silent is over: called by the timer."""
        if self._decided:
            return
        self._means.proof.prepare(self._ticket)
        if self._apart is None and len(self._batch) > 1 and not self._trial:
            self._beside = asyncio.get_running_loop().create_task(self._ask_beside())

    async def _ask_in_time(self) -> None:
        try:
            # Everything ends within `timeout.total`: attempts, pauses and questions asked apart.
            async with asyncio.timeout_at(self._until_s):
                self._means.budget.request()
                # The trial of a half-open circuit is one attempt.
                await self._ask(self._batch, 1 if self._trial else self._means.settings.retry.attempts)
        except TimeoutError:
            self._fail(self._open(), CallFailure("iam_timeout", _TOO_LATE))
        except Exception as error:  # noqa: BLE001 - a bug here must still answer everybody, and permit nobody
            self._means.observer.bug("iam", error)
            self._fail(self._open(), CallFailure("internal_error", "a bug in asking IAM"))
        finally:
            if self._beside is not None:
                self._beside.cancel()

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

    async def _settle(self) -> None:
        """Answer what failed, once it is known whose failure it is."""
        # The breaker counts once; what is the question's own fault does not count and never degrades.
        if self._decided:
            self._ticket.success()
            isolated = True
        else:
            isolated = await self._judged() is Blame.REQUEST
        remaining_s = self._means.breaker.remaining_s()
        for pending, failure in self._failed:
            after_s = max(remaining_s, failure.retry_after_s or 0.0) or None
            error = fault(failure.code, failure.reason, after_s)
            if isolated and failure.code == "iam_timeout" and pending in self._alone and pending.known:
                self._means.suspects.add(pending.key[0], asyncio.get_running_loop().time())
            pending.resolve(unknown(error, isolated=isolated))
        for pending, decision in self._errors:
            pending.resolve(replace(decision, isolated=isolated))

    async def _judged(self) -> Blame:
        """Whose failure it is that nothing was decided; the breaker learns it."""
        failure = self._failure
        groups = self._groups()
        if not groups:
            self._answered("iam_rejected")
            return Blame.REQUEST
        blame = await self._means.proof.blame(
            self._ticket, groups, answered=failure is None, began_s=self._began_s, until_s=self._until_s
        )
        code = "iam_error" if failure is None else failure.code
        if failure is None and blame is Blame.REQUEST:
            self._answered(code)
        elif self._trial and blame is Blame.REQUEST and self._means.proof.believed:
            self._ticket.success()
        else:
            self._ticket.failure(code, blame)
        return blame

    def _groups(self) -> list[list[str]]:
        """The subjects of what failed: each question that was asked alone by itself, all the others together."""
        failed = [pending for pending, failure in self._failed if failure.counts]
        groups = [[pending.key[0]] for pending in failed if pending in self._alone]
        groups += [[pending.key[0]] for pending, _ in self._errors]
        together = [pending.key[0] for pending in failed if pending not in self._alone]
        return [*groups, together] if together else groups

    def _answered(self, code: str) -> None:
        """Nothing was decided, but IAM answered: that closes a circuit, and counts for nothing else."""
        rejected = any(failure.code == "iam_rejected" for _, failure in self._failed)
        if not self._trial or not (rejected or self._errors):
            self._ticket.neutral()
        elif self._means.proof.believed:
            self._ticket.success()
        else:
            self._ticket.failure(code, Blame.REQUEST)

    async def _ask(self, batch: Sequence[Pending], attempts: int) -> bool:
        """Ask, apart if need be. Whether the batch as a whole was answered."""
        if len(batch) == 1:
            self._alone.add(batch[0])
        try:
            decisions = await self._attempts(batch, attempts)
        except CallFailure as failure:
            # One question of the batch may be the cause, and must not fail the others.
            if len(batch) > 1 and self._may_be_one_of_them(failure):
                await self._ask_apart(batch, failure)
            else:
                self._fail(batch, failure)
            return False
        for pending, decision in zip(batch, decisions, strict=True):
            if decision.fault is None:
                self._decided = True
                pending.resolve(decision)
            else:
                self._errors.append((pending, decision))
        return True

    async def _attempts(self, batch: Sequence[Pending], attempts: int) -> list[Decision]:
        attempt = 1
        while True:
            try:
                # A further attempt, and a trial, go over a new connection.
                return await self._attempt(batch, fresh=self._trial or attempt > 1)
            except CallFailure as failure:
                if (
                    not _again(failure, len(batch), attempt)
                    or attempt >= attempts
                    or not await self._retry(failure, attempt)
                ):
                    raise failure
            attempt += 1

    async def _retry(self, failure: CallFailure, attempt: int) -> bool:
        """Wait for the next attempt, if there is to be one."""
        means = self._means
        wait_s = max(backoff_s(means.settings.retry, attempt), failure.retry_after_s or 0.0)
        # A retry fits into the call's time and into the budget, or there is none.
        in_time = asyncio.get_running_loop().time() + wait_s < self._until_s
        if not in_time or not means.budget.try_retry(self.subject):
            return False
        await asyncio.sleep(wait_s)
        # The circuit may have opened during the pause.
        if not self._admitted():
            return False
        means.observer.retry(_TARGET, attempt + 1, means.settings.retry.attempts, failure.code)
        return True

    async def _attempt(self, batch: Sequence[Pending], *, fresh: bool) -> list[Decision]:
        """One exchange with IAM: a span, a metric, an entry of the record."""
        means = self._means
        asks = list(dict.fromkeys(ask for pending in batch for ask, _ in pending.waiters))
        peer = means.api.peer
        span = means.observer.iam_call_started(len(batch), [ask.span for ask in asks], means.api.operation)
        note = Note(asks[0].request_id if asks else "", span.traceparent, fresh)
        started_s = time.perf_counter()
        code, reason, status = "", "", 0
        try:
            decisions = await means.api.ask([pending.question for pending in batch], note)
            status = OK
            return decisions
        except CallFailure as failure:
            code, reason, status = failure.code, failure.reason, failure.status
            raise
        except asyncio.CancelledError:
            if asyncio.get_running_loop().time() >= self._until_s:
                code, reason = "iam_timeout", _TOO_LATE
            raise
        finally:
            taken_s = time.perf_counter() - started_s
            means.record.add(code, reason)
            means.observer.iam_call_ended(span, len(batch), code, taken_s, status, peer)

    async def _ask_apart(self, batch: Sequence[Pending], failure: CallFailure) -> None:
        """Ask the parts of a failed batch; side by side, as far as places are free, once IAM is known to answer."""
        begun = self._apart if batch is self._batch else None
        apart = begun or _Parts(failure, _parts(batch, failure.apart))
        apart.failure = failure
        self._apart = self._apart or apart
        async with asyncio.TaskGroup() as group:
            while apart.left:
                if self._decided or not failure.counts or begun:
                    self._invite(group, apart, len(apart.left) - 1)
                await self._ask_part(apart)
        if begun and self._beside is not None:
            await self._beside
        if failure.too_many and apart.all_answered:
            self._means.limit.refused(len(batch))

    async def _ask_beside(self) -> None:
        """The batch is silent. If IAM works, its questions are asked apart beside it, in places that are free.

        So nobody waits long for somebody else's question. The batch goes on: it may only be slow.
        """
        if not await self._iam_works() or self._apart is not None:
            return
        silent = CallFailure("iam_timeout", "IAM is silent about the batch", apart=Apart.SINGLY)
        self._apart = _Parts(silent, _parts(self._batch, Apart.SINGLY))
        async with asyncio.TaskGroup() as group:
            self._invite(group, self._apart, len(self._apart.left))

    def _invite(self, group: asyncio.TaskGroup, apart: _Parts, helpers: int) -> None:
        for _ in range(helpers):
            if not self._means.places.try_acquire():
                return
            group.create_task(self._help(apart))

    async def _help(self, apart: _Parts) -> None:
        try:
            while apart.left:
                await self._ask_part(apart)
        finally:
            self._means.places.release()
            self._means.freed()

    async def _ask_part(self, apart: _Parts) -> None:
        # Each part is asked once, so a call never costs IAM more than asking without batches would.
        part, failure = apart.left.popleft(), apart.failure
        if not await self._worth_asking(part, failure):
            self._fail(part, failure)
        elif await self._ask(part, 1):
            return
        elif failure.counts:
            self._means.budget.try_retry(_one_of(part))
        apart.all_answered = False

    def _may_be_one_of_them(self, failure: CallFailure) -> bool:
        """Whether one question may be the cause. The trial that IAM fails is over: it was the one call."""
        return failure.apart is not Apart.NO and not (self._trial and failure.counts)

    async def _worth_asking(self, part: Sequence[Pending], failure: CallFailure) -> bool:
        # A rejection is a healthy IAM's answer, so all parts are asked; a failing IAM gets what the budget has.
        if failure.counts and not self._means.budget.available(_one_of(part)) and not await self._iam_works():
            return False
        return self._admitted()

    async def _iam_works(self) -> bool:
        """Then asking apart is no burden on a failing IAM, and nobody has to go without for another's question."""
        return self._decided or await self._means.proof.works(self._ticket, self._began_s, self._until_s)

    def _admitted(self) -> bool:
        try:
            self._ticket.still_open()
        except CircuitOpen:
            return False
        return True

    def _open(self) -> list[Pending]:
        """The questions of the batch that have no answer and no failure yet: also those that nobody waits for now."""
        failed = {pending.key for pending, _ in (*self._failed, *self._errors)}
        return [pending for pending in self._batch if pending.known and pending.key not in failed]

    def _fail(self, batch: Sequence[Pending], failure: CallFailure) -> None:
        self._failed += [(pending, failure) for pending in batch]
        if failure.counts:
            self._failure = failure


class _Parts:
    """A failed batch that is asked apart: what is left to ask, and whether everything so far was answered."""

    __slots__ = ("all_answered", "failure", "left")

    def __init__(self, failure: CallFailure, parts: deque[Sequence[Pending]]) -> None:
        self.failure = failure
        self.left = parts
        self.all_answered = True


def _again(failure: CallFailure, size: int, attempt: int) -> bool:
    """Whether another attempt may help: also once for a lone question that IAM may have failed for once only."""
    return failure.retryable or (attempt == size == 1 and failure.counts and failure.apart is Apart.SINGLY)


def _one_of(batch: Sequence[Pending]) -> str:
    """The subject of these questions, empty if they are several subjects'."""
    subject = batch[0].key[0]
    for pending in batch:
        if pending.key[0] != subject:
            return ""
    return subject


def _parts(batch: Sequence[Pending], apart: Apart) -> deque[Sequence[Pending]]:
    size = 1 if apart is Apart.SINGLY else (len(batch) + 1) // 2
    return deque(batch[start : start + size] for start in range(0, len(batch), size))
