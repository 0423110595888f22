"""The plain IAM: checks of subject, action and resource as three strings, allowed or not.

Rules: as strict as AuthZEN: as many results as checks, in order, `allowed` a JSON boolean. Properties and context of a
question go along where it has them, so that nothing is asked more loosely than the route says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from gateway.iam.failure import invalid
from gateway.iam.strict_json import parsed
from gateway.iam.wire import Note, Wire
from gateway.model.question import ALLOW, DENY, Decision, Question

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
        return [_decision(result) for result in results]


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
        return [_decision(parsed(await self._wire.post(self._target, json.dumps(_check(question)), note)))]


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


def _decision(item: Any) -> Decision:
    allowed = item.get("allowed") if isinstance(item, dict) else None
    if allowed is not True and allowed is not False:
        raise invalid("`allowed` is not a JSON boolean")
    return ALLOW if allowed else DENY
