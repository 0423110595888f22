"""AuthZEN discovery: the decision point says itself where it is asked, and whether it takes many questions at once.

Rules: `/.well-known/authzen-configuration` stands between host and path of the configured URL (Authorization API 1.0,
section 9). It is fetched by the first call and shared by the calls that wait for it; it is fetched again after a call
found nothing where it said. `policy_decision_point` must be the configured URL, and endpoints at
another host are not believed: our token would go there. Until it is known, one question a call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.iam.api import Api
from gateway.iam.authzen import EVALUATION, Evaluation, Evaluations
from gateway.iam.failure import CallFailure
from gateway.iam.fitting import BatchOrSingle
from gateway.iam.strict_json import parsed
from gateway.iam.wire import Note, Target, Wire
from gateway.model.question import Decision, Question

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
