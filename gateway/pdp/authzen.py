"""The decision point as an AuthZEN server: `gateway iam` (Authorization API 1.0, sections 6 to 10)."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.pdp.point import CHUNK, EmbeddedDecisionPoint, Verdict
from gateway.pdp.question import OPAQUE_TYPE, Malformed, read_question
from gateway.pdp.search import search_actions, search_resources, search_subjects
from gateway.pdp.wire import BadRequest, check_content_type, read_object

# AuthZEN's access evaluation and access evaluations over an EmbeddedDecisionPoint (sections 6 and 7).
#
# Rules: top-level `subject`, `action`, `resource` and `context` are defaults; a member of an evaluation replaces the
# default whole. Answers stand in the order of the questions. An item that cannot be evaluated is `decision: false`
# with `context.error` and the others are answered. With `deny_on_first_deny` and `permit_on_first_permit` the answers
# end after the item that decides. Without an `evaluations` array, or with an empty one, it is a single evaluation.
# Neither policies nor entities show in an answer: reasons are for the log of whoever runs the decision point.

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


# | | |
# |---|---|
# | `POST /access/v1/evaluation` | one evaluation |
# | `POST /access/v1/evaluations` | many, with the three semantics |
# | `POST /access/v1/search/subject`, `…/resource`, `…/action` | who may, on what, and which actions |
# | `GET /.well-known/authzen-configuration` | where they are |
#
# Rules: a bad request is 400 as problem+json (RFC 9457); other paths 404, other methods 405 with `Allow`; bodies are
# at most MAX_BODY bytes, else 413; `X-Request-ID` is echoed on every answer. Nothing that a caller sends causes a
# 500. Deliberately absent: authentication of callers (listen on loopback or behind something that does it).

MAX_BODY: Final = 1024 * 1024
EVALUATION: Final = "/access/v1/evaluation"
EVALUATIONS: Final = "/access/v1/evaluations"
CONFIGURATION: Final = "/.well-known/authzen-configuration"
SEARCHES: Final = {"subject": search_subjects, "resource": search_resources, "action": search_actions}
_SEARCH: Final = "/access/v1/search/"
_TOO_LARGE: Final = 413
_REQUEST_ID: Final = b"x-request-id"
_TITLES: Final = {
    400: "Bad request",
    404: "No such endpoint",
    405: "Method not allowed",
    413: "Request too large",
}
_log = logging.getLogger("gateway.pdp")
Answer = Callable[[EmbeddedDecisionPoint, Mapping[str, Any]], Awaitable[dict[str, Any]]]


def authzen_app(point: Callable[[], EmbeddedDecisionPoint], *, verbose: bool = False) -> ASGIApp:
    """The ASGI app. `point` is called per request, so that its owner can swap policies. `verbose` logs decisions."""
    heard = _log_decision if verbose else _ignore
    app = Starlette(
        routes=[
            Route(EVALUATION, _endpoint(point, partial(evaluation, heard=heard)), methods=["POST"]),
            Route(EVALUATIONS, _endpoint(point, partial(evaluations, heard=heard)), methods=["POST"]),
            *(Route(_SEARCH + what, _endpoint(point, search), methods=["POST"]) for what, search in SEARCHES.items()),
            Route(CONFIGURATION, _configuration, methods=["GET"]),
        ],
        exception_handlers={BadRequest: _refusal, HTTPException: _http_refusal},
    )
    app.router.redirect_slashes = False
    return _EchoRequestId(app)


def _endpoint(point: Callable[[], EmbeddedDecisionPoint], answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        check_content_type(request.headers.get("content-type"))
        document = read_object(await _body(request))
        return _json(await answer(point(), document))

    return endpoint


async def _body(request: Request) -> bytes:
    parts = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > MAX_BODY:
                raise BadRequest(f"The body is larger than {MAX_BODY} bytes.", _TOO_LARGE)
            parts.append(part)
    except ClientDisconnect:
        raise BadRequest("The body ended early.") from None
    return b"".join(parts)


async def _configuration(request: Request) -> Response:
    base = f"{request.url.scheme}://{request.url.netloc}"
    return _json(
        {
            "policy_decision_point": base,
            "access_evaluation_endpoint": base + EVALUATION,
            "access_evaluations_endpoint": base + EVALUATIONS,
            **{f"search_{what}_endpoint": base + _SEARCH + what for what in SEARCHES},
        }
    )


def _json(document: Mapping[str, Any]) -> Response:
    return Response(json.dumps(document), media_type="application/json")


async def _refusal(_request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, BadRequest) else 500
    return _problem(status, str(error), {"connection": "close"} if status == _TOO_LARGE else {})


async def _http_refusal(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return _problem(error.status_code, "", dict(error.headers or {}))


def _problem(status: int, detail: str, headers: Mapping[str, str]) -> Response:
    document = {"type": "about:blank", "title": _TITLES.get(status, "Error"), "status": status}
    if detail:
        document["detail"] = detail
    return Response(
        json.dumps(document), status, {**headers, "cache-control": "no-store"}, media_type="application/problem+json"
    )


class _EchoRequestId:
    """Repeats the caller's `X-Request-ID` on whatever is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ids = [field for field in scope.get("headers", ()) if field[0] == _REQUEST_ID]

        async def echoing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *ids[:1]]
            await send(message)

        await self._app(scope, receive, echoing if ids else send)


def _ignore(_item: Any, _verdict: Verdict) -> None:
    """Decisions are not logged unless asked for."""


def _log_decision(item: Any, verdict: Verdict) -> None:
    _log.info("[pdp] %s: %s (%s)", describe(item), verdict.outcome.value, verdict.reason)


def describe(item: Any) -> str:
    """An evaluation in few words: who, what, on what. The id of a token is a secret and is left out."""
    try:
        asked = read_question(item)
    except Malformed:
        return "(malformed question)"
    who = asked.principal.type if asked.principal.type == OPAQUE_TYPE else _quoted(*asked.principal)
    return f"{who} {json.dumps(asked.action)} {_quoted(*asked.resource)}"


def _quoted(entity_type: str, entity_id: str) -> str:
    return f"{entity_type}::{json.dumps(entity_id)}"
