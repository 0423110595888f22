"""What a decision point can take: no batches at all, or smaller ones than the configuration says.

Rules: one that answers the batch endpoint with 404 or 405 and a single question with 200 is asked one by one; that is
said once, is no failure, and is looked at again after LOOK_AGAIN_S. A smaller limit is learned only when every part of
a refused batch was accepted, so that one poison question shrinks nothing; it is forgotten after the same time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from gateway.iam.authzen import Evaluation, Evaluations
from gateway.iam.failure import Apart, CallFailure
from gateway.iam.wire import Note
from gateway.model.question import Decision, Question

LOOK_AGAIN_S: Final = 600.0
_LOG: Final = logging.getLogger("gateway")


class BatchLimit:
    """How many questions a decision point takes at once, as far as was learned. `clock` is monotonic seconds."""

    __slots__ = ("_clock", "_learned", "_until_s")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._learned = 0
        self._until_s = -inf

    def of(self, size: int) -> int:
        """`size`, or less if that is known to be too much."""
        if not self._learned:
            return size
        if self._clock() >= self._until_s:
            self._learned = 0
        return min(size, self._learned or size)

    def refused(self, size: int) -> None:
        """A call with `size` questions was refused, and every part of it was accepted."""
        self._learned = max(1, (size + 1) // 2)
        self._until_s = self._clock() + LOOK_AGAIN_S


class BatchOrSingle:
    """AuthZEN at a decision point that may have no batch endpoint."""

    def __init__(self, batch: Evaluations, single: Evaluation, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._batch = batch
        self._single = single
        self._clock = clock
        self._single_until_s = -inf
        self._said = False

    @property
    def max_size(self) -> int:
        """1 while there is no batch endpoint."""
        return self._now.max_size

    @property
    def operation(self) -> str:
        """Of what is asked now."""
        return self._now.operation

    async def ask(self, questions: Sequence[Question], note: Note) -> list[Decision]:
        """One decision for each question, in order. Raises CallFailure."""
        if self._now is self._single and len(questions) == 1:
            return await self._single.ask(questions, note)
        try:
            return await self._batch.ask(questions, note)
        except CallFailure as failure:
            if not failure.gone:
                raise
            return await self._without_batches(questions, note, failure)

    @property
    def _now(self) -> Evaluations | Evaluation:
        if self._single_until_s == -inf:  # this runs for every call
            return self._batch
        return self._single if self._clock() < self._single_until_s else self._batch

    async def _without_batches(self, questions: Sequence[Question], note: Note, missing: CallFailure) -> list[Decision]:
        """The single endpoint decides whether it is only the other one that is missing."""
        try:
            decisions = await self._single.ask(questions[:1], note)
        except CallFailure as failure:
            raise missing if failure.gone else failure from None
        self._single_until_s = self._clock() + LOOK_AGAIN_S
        if not self._said:
            self._said = True
            _LOG.warning("[iam] %s: asking one by one at %s", missing.reason, self._single.operation)
        if len(questions) > 1:
            raise CallFailure("iam_rejected", "no batches here", apart=Apart.SINGLY)
        return decisions
