"""What a decision point can take and where it is asked: batches or none, how large, and AuthZEN discovery."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.iam.failure import Apart, CallFailure, parsed
from gateway.iam.http import Note, Target, Wire
from gateway.iam.protocols import EVALUATION, Api, Evaluation, Evaluations
from gateway.model.permit import Decision, Question

# What a decision point can take: no batches at all, or smaller ones than the configuration says.
#
# Rules: one that answers the batch endpoint with 404 or 405 and a single question with 200 is asked one by one; that
# is said once, is no failure, and is looked at again after LOOK_AGAIN_S. A smaller limit is learned only when every
# part of a refused batch was accepted, so that one poison question shrinks nothing; it is forgotten after the same
# time.

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


# Rules: `/.well-known/authzen-configuration` stands between host and path of the configured URL (Authorization API
# 1.0, section 9). It is fetched by the first call and shared by the calls that wait for it; it is fetched again after
# a call found nothing where it said. `policy_decision_point` must be the configured URL, and endpoints at another
# host are not believed: our token would go there. Until it is known, one question a call.

WELL_KNOWN: Final = "/.well-known/authzen-configuration"


class DiscoveredAuthzen:
    """AuthZEN at the endpoints that the decision point publishes."""

    def __init__(self, wire: Wire, max_size: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._wire = wire
        self._batch = max_size
        self._clock = clock
        base = urlsplit(wire.base)
        self._well_known = wire.target_at(f"{base.scheme}://{base.netloc}{WELL_KNOWN}{base.path}")
        self._api: Api | None = None
        self._lock = asyncio.Lock()

    @property
    def max_size(self) -> int:
        """1 until discovery has said otherwise."""
        return 1 if self._api is None else self._api.max_size

    @property
    def operation(self) -> str:
        """Of the single kind until discovery has said otherwise."""
        return f"POST {EVALUATION}" if self._api is None else self._api.operation

    async def ask(self, questions: Sequence[Question], note: Note) -> list[Decision]:
        """One decision for each question, in order. Raises CallFailure, also when discovery fails."""
        api = self._api or await self._discover(note)
        try:
            return await api.ask(questions, note)
        except CallFailure as failure:
            if failure.gone and self._api is api:
                self._api = None
            raise

    async def _discover(self, note: Note) -> Api:
        async with self._lock:
            if self._api is None:
                self._api = self._chosen(parsed(await self._wire.get(self._well_known, note)))
            return self._api

    def _chosen(self, document: Any) -> Api:
        if not isinstance(document, dict) or not self._same(document.get("policy_decision_point")):
            raise _unusable("policy_decision_point is not the configured url")
        many, one = document.get("access_evaluations_endpoint"), document.get("access_evaluation_endpoint")
        if many is None:
            return Evaluation(self._wire, target=self._target(one))
        batch = Evaluations(self._wire, self._batch, target=self._target(many))
        if one is None:
            return batch
        return BatchOrSingle(batch, Evaluation(self._wire, target=self._target(one)), clock=self._clock)

    def _same(self, url: Any) -> bool:
        return isinstance(url, str) and url.rstrip("/") == self._wire.base

    def _target(self, endpoint: Any) -> Target:
        if not isinstance(endpoint, str) or urlsplit(endpoint)[:2] != urlsplit(self._wire.base)[:2]:
            raise _unusable("an endpoint is not at the configured host")
        return self._wire.target_at(endpoint)


def _unusable(reason: str) -> CallFailure:
    return CallFailure("iam_invalid_response", f"discovery: {reason}")
