"""What may I do? The caller's own questions, answered for the caller (AuthZEN Authorization API 1.0, section 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.checks import make_check
from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.forward.asking import (
    IAM_PARTIAL,
    JSON_HEADERS,
    PARTIAL,
    Decide,
    a_moment_before,
    body_of,
    outage_of,
    refuse_void_credentials,
)
from gateway.forward.heads import mark_degraded_permit
from gateway.forward.json_text import read_callers, write
from gateway.model.permit import Check, Decision, Outcome, Permit, Question
from gateway.model.route import PermissionsAction, Route
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import Observer
from gateway.witness import Witness, of_items, see_items

MAX_BODY: Final = 64 * 1024
_SEMANTICS: Final = {
    "execute_all": None,
    "deny_on_first_deny": False,
    "permit_on_first_permit": True,
}
"""After which decision the answer ends."""
_UNKNOWN: Final = {"decision": False, "context": {"access": "unknown"}}


class PermissionsEndpoint:
    """Serves one permissions route."""

    def __init__(self, route: Route, *, decide: Decide, observer: Observer, witness: Witness | None = None) -> None:
        if not isinstance(route.action, PermissionsAction):
            raise TypeError(f"route {route.id} is not about permissions")
        self._route = route
        self._max_items = route.action.max_items
        self._max_body = min(MAX_BODY, route.max_body or MAX_BODY)
        self._decide = decide
        self._observer = observer
        self._witness = witness

    async def __call__(self, permit: Permit, exchange: Exchange, deadline: Deadline) -> None:
        """Answer every question of the body."""
        mark_degraded_permit(permit, exchange)
        subject = permit.subject
        if subject is None:
            raise GatewayError("internal_error", reason="permissions were asked for by nobody")
        asked = _read(await body_of(exchange, deadline, self._max_body), self._max_items)
        questions = [Question(subject, check) for check in asked.checks]
        request = permit.request
        decisions = await self._decide(
            questions,
            deadline=a_moment_before(deadline),
            request_id=request.request_id,
            span=exchange.span,
            client=request.client,
        )
        refuse_void_credentials(decisions)
        if self._witness is not None:
            see_items(self._witness, of_items(permit, questions, decisions, exchange.record.trace_id))
        deadline.stop()
        await self._respond(exchange, asked, decisions)

    async def _respond(self, exchange: Exchange, asked: _Asked, decisions: Sequence[Decision]) -> None:
        answers = [_evaluation(decision) for decision in asked.answered(decisions)]
        document: dict[str, Any] = dict(answers[0]) if asked.single else {"evaluations": answers}
        headers = [*JSON_HEADERS, (b"x-request-id", exchange.request.request_id.encode("ascii"))]
        outage = outage_of(decisions)
        if outage is not None:
            document.update(degraded=True, degraded_reason=outage.code, retry_after=outage.retry_after)
            headers.append(IAM_PARTIAL)
            exchange.record.degraded = PARTIAL
            self._observer.degraded(self._route.id, PARTIAL)
        await exchange.respond(200, headers, write(document))


@dataclass(frozen=True, slots=True)
class _Asked:
    """The questions of one request. `last`: the answer ends after the first decision like this; None: never."""

    checks: Sequence[Check]
    single: bool
    last: bool | None

    def answered(self, decisions: Sequence[Decision]) -> Sequence[Decision]:
        """The decisions that the answer shows."""
        permits = [decision.outcome is Outcome.ALLOW for decision in decisions]
        # The answer is shortened, as the specification says, although all questions were asked at once.
        return decisions if self.last not in permits else decisions[: permits.index(self.last) + 1]


def _read(body: bytes, max_items: int) -> _Asked:
    """What is asked. Without `evaluations` the document is itself the one question. Raises `bad_request`."""
    try:
        document = read_callers(body)
    except ValueError:
        raise _bad("The body is not a JSON document.") from None
    if not isinstance(document, dict):
        raise _bad("The body is not an evaluations request.")
    items = document.get("evaluations", [])
    if not isinstance(items, list):
        raise _bad("`evaluations` is not a list of questions.")
    if len(items) > max_items:
        raise _bad(f"More than {max_items} questions.")
    checks = [_check(document, item) for item in items or [{}]]
    return _Asked(checks, single=not items, last=_ends_after(document.get("options")))


def _check(defaults: Mapping[str, Any], item: Any) -> Check:
    if not isinstance(item, dict):
        raise _bad("A question is not an object.")
    # Refused, never ignored: the subject is the caller.
    if "subject" in item or "subject" in defaults:
        raise _bad("Questions are answered for the caller: no subject can be named.")
    # A member at the top is a default. An item replaces the whole member.
    asked = {**defaults, **item}
    action = _part(asked, "action", "name")
    resource = _part(asked, "resource", "type", "id")
    context = asked.get("context")
    if "context" in asked and not isinstance(context, dict):
        raise _bad("`context` is not an object.")
    try:
        check = make_check(action, resource, context)
        check.fragment.encode()
    except ValueError:
        raise _bad("A question holds text that is not Unicode.") from None
    return check


def _part(asked: Mapping[str, Any], part: str, *names: str) -> Mapping[str, Any]:
    value = asked.get(part)
    if not isinstance(value, dict) or not all(isinstance(value.get(name), str) and value[name] for name in names):
        raise _bad(f"A question needs `{part}` with {' and '.join(names)}.")
    if not isinstance(value.get("properties", {}), dict):
        raise _bad("`properties` are not an object.")
    return value


def _ends_after(options: Any) -> bool | None:
    if options is None:
        return None
    semantic = options.get("evaluations_semantic", "execute_all") if isinstance(options, dict) else ""
    if not isinstance(semantic, str) or semantic not in _SEMANTICS:
        raise _bad("`options` asks for an unknown semantic.")
    return _SEMANTICS[semantic]


def _evaluation(decision: Decision) -> Mapping[str, Any]:
    return _UNKNOWN if decision.outcome is Outcome.UNKNOWN else {"decision": decision.outcome is Outcome.ALLOW}


def _bad(detail: str) -> GatewayError:
    return GatewayError("bad_request", detail)
