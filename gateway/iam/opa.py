"""OPA's data API: the questions as `input`, one document of the policy as the result.

Rules: the result is a list with one item for each question, a JSON boolean or an object with a boolean `decision`. An
undefined result is unknown, and asking again would not define it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gateway.iam.failure import CallFailure, invalid
from gateway.iam.strict_json import parsed
from gateway.iam.wire import Note, Wire
from gateway.model.question import ALLOW, DENY, Decision, Question

_HEAD: Final = '{"input":{"evaluations":['


class Opa:
    """Many questions in one call to `POST /v1/data/<path>`."""

    def __init__(self, wire: Wire, path: str, max_size: int) -> None:
        self.max_size = max_size
        self._wire = wire
        self._target = wire.target("/v1/data/" + path.strip("/"))
        self.operation = "POST /v1/data/" + path.strip("/")

    async def ask(self, questions: Sequence[Question], note: Note) -> list[Decision]:
        """One decision for each question, in order. Raises CallFailure."""
        body = _HEAD + ",".join([question.document for question in questions]) + "]}}"
        document = parsed(await self._wire.post(self._target, body, note))
        if not isinstance(document, dict):
            raise invalid("the reply is not an object")
        if "result" not in document:
            raise CallFailure("iam_invalid_response", "the policy's result is undefined")
        items = document["result"]
        if not isinstance(items, list) or len(items) != len(questions):
            raise invalid("the result has not one item for each question")
        return [_decision(item) for item in items]


def _decision(item: Any) -> Decision:
    said = item.get("decision") if isinstance(item, dict) else item
    if said is not True and said is not False:
        raise invalid("a decision is not a JSON boolean")
    return ALLOW if said else DENY
