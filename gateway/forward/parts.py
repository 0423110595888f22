"""One system of an aggregate. It is asked separately, and its failure affects no other system.

A part only reads, whatever its method (a query by POST), so it is retried like an idempotent request.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.forward import json_text
from gateway.forward.asking import Guarded
from gateway.forward.copies import CopyKey
from gateway.forward.heads import iam_mark
from gateway.forward.json_text import read_systems, write
from gateway.forward.outage import OUTAGES, LastGood, is_outage
from gateway.headers import HeaderRules, upstream_request_headers
from gateway.model.permit import Permit
from gateway.model.request import AccessRecord, Headers
from gateway.model.route import Part
from gateway.problem import spread_retry_after
from gateway.resilience.deadline import Deadline, DeadlineExceeded
from gateway.resilience.retry import retry_after_s
from gateway.telemetry.observer import Span
from gateway.template import RequestValues, fill_tree
from gateway.upstream.answer import Answer
from gateway.upstream.failures import HeldBack
from gateway.upstream.outgoing import Outgoing

MAX_PART: Final = 1024 * 1024
_NOT_FOUND: Final = 404
_COME_BACK: Final = frozenset({429, 503})
_SPREAD: Final = 0.2
_DISCARDED: Final = 64 * 1024  # of a body that is not needed, so that its connection can be used again


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a system did not answer. `status`: its own, where that is all there is.

    `wait_s`: seconds until it could answer, if anybody knows; `retry_after`: the same as it is told, spread.
    `reason`: for the log alone.
    """

    code: str
    status: int | None = None
    wait_s: float | None = None
    retry_after: int | None = None
    reason: str = ""

    @classmethod
    def after(cls, code: str, wait_s: float | None, *, status: int | None = None, reason: str = "") -> Failure:
        """With the wait as it is told."""
        return cls(code, status, wait_s, None if wait_s is None else spread_retry_after(wait_s), reason)

    @property
    def in_words(self) -> str:
        """As it stands in the log."""
        detail = str(self.status) if self.status is not None else self.reason
        return f"{self.code} ({detail})" if detail else self.code

    @property
    def document(self) -> dict[str, Any]:
        """As it stands in `failures`."""
        members = {"code": self.code, "status": self.status, "retry_after": self.retry_after}
        return {name: value for name, value in members.items() if value is not None}


@dataclass(frozen=True, slots=True)
class PartAnswer:
    """The result of asking one system. `data` is the body of what was found. `age_s`: of a last good answer."""

    name: str
    found: bool = False
    data: Any = None
    failure: Failure | None = None
    age_s: float | None = None


class PartCaller:
    """Asks one system for one aggregate. `authority` is the upstream's own `Host`."""

    def __init__(
        self,
        part: Part,
        *,
        upstream: Guarded,
        authority: bytes,
        rules: HeaderRules,
        last_good: LastGood,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.part = part
        self._upstream = upstream
        self._authority = authority
        self._rules = rules
        self._last_good = last_good
        self._found_at = None if part.found_at is None else json_text.parse(part.found_at)
        self._wall = wall

    def outgoing(self, permit: Permit) -> Outgoing:
        """The request, filled in. Raises `bad_request` for a value that cannot stand in it."""
        part, request = self.part, permit.request
        value = RequestValues(request, permit.route.id, permit.route.path, permit.subject)
        target = part.path.fill_url(value).encode()
        body = None if part.json is None else write(fill_tree(part.json, value))
        headers = upstream_request_headers(
            # Only the subject and the caller's values in the templates: no credentials, no header fields.
            dataclasses.replace(request, headers=[]),
            rules=self._rules,
            host=self._authority,
            subject=permit.subject,
            degraded=iam_mark(permit),
        )
        headers += [(b"accept", b"application/json"), (b"accept-encoding", b"identity")]
        if body is not None:
            headers.append((b"content-type", b"application/json"))
        return Outgoing(part.method.encode("ascii"), target, headers, body, share_key=permit.share_key)

    async def ask(
        self, outgoing: Outgoing, permit: Permit, *, deadline: Deadline, span: Span, record: AccessRecord
    ) -> PartAnswer:
        """Ask, within the deadline, which this enforces. Never raises for what the system does."""
        key = self._last_good.key(permit, outgoing)
        try:
            with deadline.enforced():
                while True:
                    outcome = await self._once(outgoing, key, deadline=deadline, span=span, record=record)
                    if isinstance(outcome, PartAnswer):
                        return outcome
                    record.retries += 1
                    await asyncio.sleep(outcome)
        except DeadlineExceeded:
            return self._last_good_or(Failure("deadline_exceeded"), key, outgoing)
        except GatewayError as error:
            failure = failure_of(error)
            return self._last_good_or(failure, key, outgoing) if is_outage(error) else self._failed(failure)

    async def _once(
        self, outgoing: Outgoing, key: CopyKey | None, *, deadline: Deadline, span: Span, record: AccessRecord
    ) -> PartAnswer | float:
        """The answer, or how many seconds to wait before asking again, as the system wants it."""
        try:
            answer = await self._upstream.exchange(
                outgoing, deadline=deadline, span=span, replayable=True, record=record
            )
        except HeldBack as held:
            wait_s = _within(deadline, held.retry_after_s)
            if wait_s is None:
                raise
            return wait_s
        # Asked again at the time that it names, as often as the deadline allows. Otherwise a failure immediately.
        wait_s = _within(deadline, self._retry_after_s(answer)) if answer.status in _COME_BACK else None
        if wait_s is None:
            return await self._read(answer, outgoing, key)
        await _discard(answer)
        return wait_s

    async def _read(self, answer: Answer, outgoing: Outgoing, key: CopyKey | None) -> PartAnswer:
        status = answer.status
        if 200 <= status <= 299:  # the class of successes
            body = await answer.read(MAX_PART)
            result = self._answer(body)
            self._last_good.learn(key, outgoing, answer, body)
            return result
        self._last_good.learn(key, outgoing, answer)
        await _discard(answer)
        # A 404 is an answer, too.
        if status == _NOT_FOUND:
            return PartAnswer(self.part.name)
        failure = Failure.after("upstream_error", self._retry_after_s(answer), status=status)
        return self._last_good_or(failure, key, outgoing) if status in OUTAGES else self._failed(failure)

    def _retry_after_s(self, answer: Answer) -> float | None:
        return retry_after_s(_field(answer.headers, b"retry-after"), self._wall())

    def _last_good_or(self, failure: Failure, key: CopyKey | None, outgoing: Outgoing) -> PartAnswer:
        """The last good answer in place of the failure, where there is one."""
        # With a permit that IAM gave now.
        kept = self._last_good.find(key, outgoing)
        if kept is None:
            return self._failed(failure)
        copy, age_s = kept
        try:
            return self._answer(copy.body, age_s)
        except GatewayError:  # it was good before a reload that changed `found_at`
            return self._failed(failure)

    def _answer(self, body: bytes, age_s: float | None = None) -> PartAnswer:
        """What a success says. Raises `upstream_protocol_error` for a body of another shape."""
        data = _parsed(body)
        there = data if self._found_at is None else json_text.look_up(data, self._found_at)
        # An answer that `found_at` does not match is of the wrong shape.
        if there is json_text.ABSENT:
            raise GatewayError("upstream_protocol_error", reason=f"nothing at {self.part.found_at}")
        found = self._found_at is None or not (there is None or there is False or there in ([], {}))
        return PartAnswer(self.part.name, found=found, data=data if found else None, age_s=age_s)

    def _failed(self, failure: Failure) -> PartAnswer:
        return PartAnswer(self.part.name, failure=failure)


def unanswered(name: str, fault: GatewayError | None) -> PartAnswer:
    """A system that was not asked, because IAM could not say whether it may be."""
    return PartAnswer(name, failure=Failure("internal_error") if fault is None else failure_of(fault))


def failure_of(error: GatewayError) -> Failure:
    """A refusal as the reason of a failure."""
    return Failure.after(error.code, error.retry_after_s if error.kind.retry_after else None, reason=error.reason)


def _within(deadline: Deadline, wait_s: float | None) -> float | None:
    """How long to wait, if the deadline allows it: up to a fifth longer, so that not all retry together."""
    left_s = deadline.remaining_s()
    if not wait_s or wait_s >= left_s:
        return None
    return min(wait_s * (1 + _SPREAD * random.random()), (wait_s + left_s) / 2)  # noqa: S311 - no secret


def _parsed(body: bytes) -> Any:
    """The body as JSON; nothing at all is null (RFC 9110 section 15.3.5)."""
    if not body:
        return None
    try:
        return read_systems(body)
    except ValueError as malformed:
        raise GatewayError("upstream_protocol_error", reason=f"not JSON: {malformed}"[:200]) from None


async def _discard(answer: Answer) -> None:
    """Discard a body that is not needed."""
    try:
        await answer.read(_DISCARDED)
    except GatewayError:
        await answer.aclose()


def _field(headers: Headers, name: bytes) -> bytes | None:
    return next((value for key, value in headers if key == name), None)
