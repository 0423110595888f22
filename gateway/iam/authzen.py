"""AuthZEN Authorization API 1.0: evaluations of many questions in one call, or one evaluation a call.

Rules: as many items as were asked, in the same order, each with a JSON boolean `decision`; other members are ignored.
An item whose `context.error.status` is 500 or more is unknown, a permit that comes with an error is unknown too; any
other `false` is a denial, also with an error. 401 in an item says that the subject's own token is void.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gateway.iam.denial import denial
from gateway.iam.failure import Apart, CallFailure, fault, invalid
from gateway.iam.strict_json import parsed
from gateway.iam.wire import Note, Target, Wire
from gateway.model.question import ALLOW, DENY, Decision, Outcome, Question, unknown

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
        return [_decision(item, question, reasons) for item, question in zip(items, questions, strict=True)]


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
        return [_decision(answer, question, self._wire.deny_reasons)]


def _decision(item: Any, question: Question, reasons: bool) -> Decision:  # runs for every item
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
