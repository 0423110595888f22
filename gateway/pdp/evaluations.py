"""AuthZEN's access evaluation and access evaluations over an EmbeddedDecisionPoint (sections 6 and 7).

Rules: top-level `subject`, `action`, `resource` and `context` are defaults; a member of an evaluation replaces the
default whole. Answers stand in the order of the questions. An item that cannot be evaluated is `decision: false` with
`context.error` and the others are answered. With `deny_on_first_deny` and `permit_on_first_permit` the answers end
after the item that decides. Without an `evaluations` array, or with an empty one, it is a single evaluation.
Neither policies nor entities show in an answer: reasons are for the log of whoever runs the decision point.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from gateway.pdp.point import CHUNK, EmbeddedDecisionPoint, Verdict
from gateway.pdp.wire import BadRequest

MAX_EVALUATIONS: Final = 1000
DEFAULTS: Final = ("subject", "action", "resource", "context")
_BAD_REQUEST: Final = 400
_STOPS_AT: Final[Mapping[str, bool | None]] = {
    "execute_all": None,
    "deny_on_first_deny": False,
    "permit_on_first_permit": True,
}
Listener = Callable[[Any, Verdict], None]


async def evaluation(point: EmbeddedDecisionPoint, document: Mapping[str, Any], heard: Listener) -> dict[str, Any]:
    """The answer to a single evaluation. Raises BadRequest for what is not one."""
    verdict = point.evaluate(document)
    if verdict.status == _BAD_REQUEST:
        raise BadRequest(f"{verdict.message[0].upper()}{verdict.message[1:]}.")
    heard(document, verdict)
    return _answer(verdict)


async def evaluations(point: EmbeddedDecisionPoint, document: Mapping[str, Any], heard: Listener) -> dict[str, Any]:
    """The answer to an evaluations request. Raises BadRequest where the request as a whole is none."""
    items = document.get("evaluations", [])
    if not isinstance(items, list):
        raise BadRequest("evaluations is not an array.")
    stops_at = _semantic(document)
    if not items:
        return await evaluation(point, document, heard)
    if len(items) > MAX_EVALUATIONS:
        raise BadRequest(f"There are more than {MAX_EVALUATIONS} evaluations.", 413)
    defaults = _defaults(document)
    asked = [_with_defaults(defaults, item) for item in items]
    return {"evaluations": await _answers(point, asked, heard, stops_at=stops_at)}


def _semantic(document: Mapping[str, Any]) -> bool | None:
    options = document.get("options", {})
    if not isinstance(options, dict):
        raise BadRequest("options is not an object.")
    name = options.get("evaluations_semantic", "execute_all")
    if not isinstance(name, str) or name not in _STOPS_AT:
        raise BadRequest(f"options.evaluations_semantic is none of {', '.join(_STOPS_AT)}.")
    return _STOPS_AT[name]


def _defaults(document: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {name: document[name] for name in DEFAULTS if name in document}
    for name, value in defaults.items():
        if not isinstance(value, dict):
            raise BadRequest(f"{name} is not an object.")
    return defaults


def _with_defaults(defaults: Mapping[str, Any], item: Any) -> Any:
    return {**defaults, **item} if isinstance(item, dict) else item


async def _answers(
    point: EmbeddedDecisionPoint, items: Sequence[Any], heard: Listener, *, stops_at: bool | None
) -> list[dict[str, Any]]:
    """Item by item, evaluated a chunk at a time so that a large batch never holds the loop."""
    answers = []
    for start in range(0, len(items), CHUNK):
        chunk = items[start : start + CHUNK]
        for item, verdict in zip(chunk, point.evaluate_all(chunk), strict=True):
            heard(item, verdict)
            answers.append(_answer(verdict))
            if verdict.allowed is stops_at:
                return answers
        await asyncio.sleep(0)
    return answers


def _answer(verdict: Verdict) -> dict[str, Any]:
    if not verdict.status:
        return {"decision": verdict.allowed}
    return {"decision": False, "context": {"error": {"status": verdict.status, "message": verdict.message}}}
