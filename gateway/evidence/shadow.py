"""A second IAM, asked beside the first for the same questions: would it decide the same?

Rules: it is asked after the answer went out (when the request's task is over, and for streams when the time is over in
which their answer had to begin), with limits and a breaker of its own, many questions in one call. It never changes,
delays or fails anything: what is too much for it is not asked, and counted as unknown. Only what IAM itself decided is
compared. A difference is a line in the decision log; without one, a line in the log a second and route, without values.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from gateway.evidence.log import DecisionLog
from gateway.iam.client import DecisionPoint
from gateway.model.permit import Decision, Outcome
from gateway.model.settings import ShadowSettings
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import NO_SPAN, Observer
from gateway.witness import Decided, Witness

_LOG: Final = logging.getLogger("gateway")
SAME: Final = "same"
DIFFERENT: Final = "different"
UNKNOWN: Final = "unknown"
AGREEMENTS: Final = (SAME, DIFFERENT, UNKNOWN)
_BY_IAM: Final = frozenset({"iam", "coalesced", "cache"})
_GATHER_S: Final = 0.05
_CIRCUIT: Final = "iam_circuit_open"
_REFUSING_S: Final = 1.0
_MARGIN_S: Final = 1.0
_TELL_EVERY_S: Final = 1.0


class Witnesses:
    """Several witnesses as one."""

    def __init__(self, *witnesses: Witness) -> None:
        self._witnesses = witnesses

    def saw(self, decided: Decided) -> None:
        """Tell each."""
        for witness in self._witnesses:
            witness.saw(decided)


class ShadowObserver(Observer):
    """What the client of a second IAM may tell: bugs. Its calls are not IAM's, so they are in no figure of IAM."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def bug(self, where: str, error: BaseException) -> None:
        """See Observer."""
        self._observer.bug(f"iam_shadow, {where}", error)


class Shadow:
    """Satisfies the seam `Witness`. `chance` gives numbers from 0 up to 1."""

    def __init__(
        self,
        settings: ShadowSettings,
        point: DecisionPoint,
        observer: Observer,
        log: DecisionLog | None,
        *,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sample = settings.sample
        self._iam = settings.iam
        self._point = point
        self._observer = observer
        self._log = log
        self._chance = chance
        self._clock = clock
        self._room = settings.iam.max_queue
        self._ready: deque[Decided] = deque()
        self._asking: set[asyncio.Task[None]] = set()
        self._gathering = False
        self._closed = False
        self._told: dict[str, tuple[float, int]] = {}
        self._refusing_until_s = 0.0

    def saw(self, decided: Decided) -> None:
        """Take its questions along, if it is one of the sample. Never raises."""
        if not decided.decisions or (self._sample < 1 and self._chance() >= self._sample):
            return
        refusing = self._refusing_until_s and self._clock() < self._refusing_until_s
        if refusing or self._room < len(decided.questions) or not any(map(_comparable, decided.decisions)):
            self._observer.shadow(decided.route.id, UNKNOWN)
            return
        self._room -= len(decided.questions)
        self._after_its_answer(decided)

    async def aclose(self) -> None:
        """Ask nothing more."""
        self._closed = True
        self._ready.clear()
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    def _after_its_answer(self, decided: Decided) -> None:
        """Have it asked about once nobody waits for the answer any more."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        waiting = [decided]

        def answered(_: Any = None) -> None:
            late.cancel()
            if waiting:
                self._take(waiting.pop(), loop)

        late = loop.call_later(decided.route.deadline_s, answered)
        if task is not None:
            task.add_done_callback(answered)

    def _take(self, decided: Decided, loop: asyncio.AbstractEventLoop) -> None:
        if self._closed:
            return
        self._ready.append(decided)
        if not self._gathering:
            self._gathering = True
            loop.call_later(_GATHER_S, self._ask_ready)

    def _ask_ready(self) -> None:
        """Start calls, as many as there are places for."""
        self._gathering = False
        while self._ready and len(self._asking) < self._iam.max_concurrency and not self._closed:
            task = asyncio.get_running_loop().create_task(self._compare(self._batch()))
            self._asking.add(task)
            task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._observer.bug("iam_shadow", bug)
        if self._ready:
            self._ask_ready()

    def _batch(self) -> list[Decided]:
        """What goes into one call."""
        batch: list[Decided] = []
        left = self._iam.batch_max_size
        while self._ready and (not batch or len(self._ready[0].questions) <= left):
            decided = self._ready.popleft()
            batch.append(decided)
            left -= len(decided.questions)
        return batch

    async def _compare(self, batch: Sequence[Decided]) -> None:
        questions = [question for decided in batch for question in decided.questions]
        try:
            decisions = await self._point.decide(
                questions,
                deadline=Deadline.after(self._iam.timeout.total_s + _MARGIN_S),
                request_id=batch[0].request.request_id,
                span=NO_SPAN,
            )
        finally:
            self._room += len(questions)
        # While its circuit is open nothing is taken along for a second: what is not asked should cost nothing.
        refused = all(decision.fault is not None and decision.fault.code == _CIRCUIT for decision in decisions)
        self._refusing_until_s = self._clock() + _REFUSING_S if refused else 0.0
        answers = iter(decisions)
        for decided in batch:
            self._judge(decided, [next(answers) for _ in decided.questions])

    def _judge(self, decided: Decided, others: Sequence[Decision]) -> None:
        differing: dict[int, Decision] = {}
        known = 0
        for number, (ours, theirs) in enumerate(zip(decided.decisions, others, strict=True)):
            if not _comparable(ours) or theirs.outcome is Outcome.UNKNOWN:
                continue
            known += 1
            if ours.outcome is not theirs.outcome:
                differing[number] = theirs
        agreement = DIFFERENT if differing else SAME if known == len(others) else UNKNOWN
        said = _said(decided, differing) if differing else ""
        self._observer.shadow(decided.route.id, agreement, said)
        if differing:
            self._tell(decided, differing, said)

    def _tell(self, decided: Decided, differing: Mapping[int, Decision], said: str) -> None:
        if self._log is not None:
            self._log.differed(decided, differing)
            return
        route, now_s = decided.route.id, self._clock()
        told_s, more = self._told.get(route, (-_TELL_EVERY_S, 0))
        if now_s - told_s < _TELL_EVERY_S:
            self._told[route] = (told_s, more + 1)
            return
        self._told[route] = (now_s, 0)
        before = f", {more:,} more before" if more else ""
        _LOG.warning("[evidence] [%s] iam_shadow %s%s", route, said, before)


def _said(decided: Decided, differing: Mapping[int, Decision]) -> str:
    """The first difference, by the check as the configuration has it: no value of a request."""
    number = next(iter(differing))
    check = decided.checks[number].source if decided.checks else "a caller's own question"
    ours = "permits" if decided.decisions[number].outcome is Outcome.ALLOW else "denies"
    theirs = "permits" if differing[number].outcome is Outcome.ALLOW else "denies"
    return f"{theirs} what IAM {ours}: {check}"


def _comparable(decision: Decision) -> bool:
    """Whether IAM itself said it."""
    return decision.outcome is not Outcome.UNKNOWN and decision.source in _BY_IAM
