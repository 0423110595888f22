"""The protocols that IAM may speak: AuthZEN, plain JSON and OPA. Questions in, as many decisions out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, Protocol

from gateway.iam.failure import Apart, CallFailure, fault, invalid, parsed
from gateway.iam.http import Note, Target, Wire
from gateway.model.permit import ALLOW, DENY, Decision, Outcome, Question, unknown

# What a protocol of IAM has to offer: the questions of one call in, as many decisions out.


class Api(Protocol):
    """One way of asking. It knows bodies and replies; queueing, retries and the breaker are around it."""

    @property
    def max_size(self) -> int:
        """How many questions fit into one call now."""

    @property
    def operation(self) -> str:
        """Method and path as configured or standardised, for spans."""

    async def ask(self, questions: Sequence[Question], note: Note) -> list[Decision]:
        """One decision for each question, in order. Raises CallFailure."""


# What a denial says beside its no: stronger authentication that would help, and words for the caller.
#
# Rules: `acr_values` (text, or a list of it) and `max_age` (seconds) become the parameters of a challenge (RFC 9470
# section 3); `reason_user` is text, or text by language; `reason_admin` is never read. What is malformed, too long or
# cannot stand in a header field is as if it were absent: a denial stays one.

_ACR: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")
_LONGEST: Final = 1000
_LANGUAGES: Final = 20
_LATEST: Final = 10**9


def denial(context: Any, *, reasons: bool) -> Decision:
    """The denial with this `context`. `reasons`: whether the caller may know why."""
    if not isinstance(context, dict):
        return DENY
    step_up, reason = _challenge(context), _by_language(context.get("reason_user")) if reasons else ()
    return Decision(Outcome.DENY, step_up=step_up, reason_user=reason) if step_up or reason else DENY


def _challenge(context: dict[str, Any]) -> str:
    asked = []
    acr = context.get("acr_values")
    if isinstance(acr, list) and all(isinstance(value, str) for value in acr):
        acr = " ".join(acr)
    if isinstance(acr, str) and len(acr) <= _LONGEST and _ACR.fullmatch(acr):
        asked.append(f'acr_values="{acr}"')
    age = context.get("max_age")
    if isinstance(age, int) and not isinstance(age, bool) and 0 <= age <= _LATEST:
        asked.append(f'max_age="{age}"')
    return ", ".join(asked)


def _by_language(reason: Any) -> tuple[tuple[str, str], ...]:
    texts = reason if isinstance(reason, dict) else {"": reason}
    return tuple(
        (language.lower(), text)
        for language, text in list(texts.items())[:_LANGUAGES]
        if isinstance(text, str) and text.isprintable() and 0 < len(text) <= _LONGEST
    )


# AuthZEN Authorization API 1.0: evaluations of many questions in one call, or one evaluation a call.
#
# Rules: as many items as were asked, in the same order, each with a JSON boolean `decision`; other members are
# ignored. An item whose `context.error.status` is 500 or more is unknown, a permit that comes with an error is
# unknown too; any other `false` is a denial, also with an error. 401 in an item says that the subject's own token is
# void.

EVALUATIONS: Final = "/access/v1/evaluations"
EVALUATION: Final = "/access/v1/evaluation"
_HEAD: Final = '{"options":{"evaluations_semantic":"execute_all"},"evaluations":['
_UNAUTHORIZED: Final = 401
_SERVER_ERROR: Final = 500
_HIGHEST_STATUS: Final = 999
_VOID: Final = Decision(Outcome.DENY, unauthenticated=True)


class Evaluations:
    """Many questions in one call, at `path` or `target`."""

    def __init__(self, wire: Wire, max_size: int, path: str = EVALUATIONS, target: Target | None = None) -> None:
        self.max_size = max_size
        self.operation = f"POST {path}"
        self._wire = wire
        self._target = target or wire.target(path)

    async def ask(self, questions: Sequence[Question], note: Note) -> list[Decision]:
        """One decision for each question, in order. Raises CallFailure."""
        body = _HEAD + ",".join([question.document for question in questions]) + "]}"
        document = parsed(await self._wire.post(self._target, body, note))
        items = document.get("evaluations") if isinstance(document, dict) else None
        if not isinstance(items, list) or len(items) != len(questions):
            raise invalid("the reply has not one evaluation for each question")
        reasons = self._wire.deny_reasons
        return [_authzen_decision(item, question, reasons) for item, question in zip(items, questions, strict=True)]


class Evaluation:
    """One question a call, for decision points without a batch endpoint."""

    max_size = 1

    def __init__(self, wire: Wire, path: str = EVALUATION, target: Target | None = None) -> None:
        self.operation = f"POST {path}"
        self._wire = wire
        self._target = target or wire.target(path)

    async def ask(self, questions: Sequence[Question], note: Note) -> list[Decision]:
        """One decision for the one question. Raises CallFailure."""
        if len(questions) != 1:  # as many as another url of the same IAM takes
            raise CallFailure("iam_rejected", "no batches here", apart=Apart.SINGLY)
        (question,) = questions
        answer = parsed(await self._wire.post(self._target, question.document, note))
        return [_authzen_decision(answer, question, self._wire.deny_reasons)]


def _authzen_decision(item: Any, question: Question, reasons: bool) -> Decision:  # runs for every item
    said = item.get("decision") if isinstance(item, dict) else None
    if said is not True and said is not False:
        raise invalid("a decision is not a JSON boolean")
    if "context" in item:
        return _in_context(item["context"], question, permitted=said, reasons=reasons)
    return ALLOW if said else DENY


def _in_context(context: Any, question: Question, *, permitted: bool, reasons: bool) -> Decision:
    error = context.get("error") if isinstance(context, dict) else None
    if error is None:
        return ALLOW if permitted else denial(context, reasons=reasons)
    status = error.get("status") if isinstance(error, dict) else None
    number = 0.0
    if isinstance(status, int | float) and not isinstance(status, bool):
        number = max(0, min(status, _HIGHEST_STATUS))
    if permitted or number >= _SERVER_ERROR:
        return unknown(fault("iam_error", f"IAM answered an item with error status {number:g}"))
    return _VOID if number == _UNAUTHORIZED and not question.subject.identified else DENY


# The plain IAM: checks of subject, action and resource as three strings, allowed or not.
#
# Rules: as strict as AuthZEN: as many results as checks, in order, `allowed` a JSON boolean. Properties and context
# of a question go along where it has them, so that nothing is asked more loosely than the route says.

CHECKS: Final = "/iam/authorize/batch"
CHECK: Final = "/iam/authorize"


class PlainBatch:
    """Many checks in one call."""

    def __init__(self, wire: Wire, path: str, max_size: int) -> None:
        self.max_size = max_size
        self._wire = wire
        self._target = wire.target(path)
        self.operation = f"POST {path}"

    async def ask(self, questions: Sequence[Question], note: Note) -> list[Decision]:
        """One decision for each question, in order. Raises CallFailure."""
        body = json.dumps({"checks": [_check(question) for question in questions]})
        document = parsed(await self._wire.post(self._target, body, note))
        results = document.get("results") if isinstance(document, dict) else None
        if not isinstance(results, list) or len(results) != len(questions):
            raise invalid("the reply has not one result for each check")
        return [_plain_decision(result) for result in results]


class PlainSingle:
    """One check a call, for an IAM without a batch endpoint."""

    max_size = 1

    def __init__(self, wire: Wire, path: str) -> None:
        self._wire = wire
        self._target = wire.target(path)
        self.operation = f"POST {path}"

    async def ask(self, questions: Sequence[Question], note: Note) -> list[Decision]:
        """One decision for the one question. Raises CallFailure."""
        (question,) = questions
        return [_plain_decision(parsed(await self._wire.post(self._target, json.dumps(_check(question)), note)))]


def _check(question: Question) -> dict[str, Any]:
    check, subject = question.check, question.subject
    made = {
        "subject": subject.id,
        "action": check.action["name"],
        "resource": f"{check.resource['type']}:{check.resource['id']}",
    }
    properties = {
        name: part["properties"]
        for name, part in (("action", check.action), ("resource", check.resource))
        if "properties" in part
    }
    if subject.properties:
        properties["subject"] = subject.properties
    if properties:
        made["properties"] = properties
    if check.context is not None:
        made["context"] = check.context
    return made


def _plain_decision(item: Any) -> Decision:
    allowed = item.get("allowed") if isinstance(item, dict) else None
    if allowed is not True and allowed is not False:
        raise invalid("`allowed` is not a JSON boolean")
    return ALLOW if allowed else DENY


# OPA's data API: the questions as `input`, one document of the policy as the result.
#
# Rules: the result is a list with one item for each question, a JSON boolean or an object with a boolean `decision`.
# An undefined result is unknown, and asking again would not define it.

_OPA_HEAD: Final = '{"input":{"evaluations":['


class Opa:
    """Many questions in one call to `POST /v1/data/<path>`."""

    def __init__(self, wire: Wire, path: str, max_size: int) -> None:
        self.max_size = max_size
        self._wire = wire
        self._target = wire.target("/v1/data/" + path.strip("/"))
        self.operation = "POST /v1/data/" + path.strip("/")

    async def ask(self, questions: Sequence[Question], note: Note) -> list[Decision]:
        """One decision for each question, in order. Raises CallFailure."""
        body = _OPA_HEAD + ",".join([question.document for question in questions]) + "]}}"
        document = parsed(await self._wire.post(self._target, body, note))
        if not isinstance(document, dict):
            raise invalid("the reply is not an object")
        if "result" not in document:
            raise CallFailure("iam_invalid_response", "the policy's result is undefined")
        items = document["result"]
        if not isinstance(items, list) or len(items) != len(questions):
            raise invalid("the result has not one item for each question")
        return [_opa_decision(item) for item in items]


def _opa_decision(item: Any) -> Decision:
    said = item.get("decision") if isinstance(item, dict) else item
    if said is not True and said is not False:
        raise invalid("a decision is not a JSON boolean")
    return ALLOW if said else DENY
