"""A GatewayError as a response: problem+json (RFC 9457) or a page, `Proxy-Status` (RFC 9209) and `Retry-After`.

The one place that words an error for the caller: used by the pipeline's error boundary and by the listener for what
never became a request. `Retry-After` is a whole number ≥ 1, spread upwards by at most 20 % so that callers do not come
back together, and the same number is `retry_after` in the body.

A page goes only to a caller who asks for HTML by name, on a route that has one. It shows what the problem says and no
text of the request's, and everything filled in is escaped.
"""

from __future__ import annotations

import html
import json
import math
import random
from types import MappingProxyType
from typing import Final

from gateway.errors import KINDS, GatewayError
from gateway.model.request import Headers, Request
from gateway.model.route import ErrorPage
from gateway.negotiation import named_quality

SPREAD: Final = 0.2
FAILURES_FIELD: Final = "x-gateway-failures"
MOVED: Final = "47x"
"""A proxy that drops the answer of a 5xx asks with this field for a status from 470 to 474: no standard has these."""
_JSON_TYPES: Final = (b"application/json", b"application/problem+json")
_PAGE_FIELDS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"vary", b"Accept"),
)
_NOT_ASKED: Final = "Access could not be checked, so nothing was forwarded."
_DETAILS: Final = MappingProxyType(
    {
        "bad_request": "The request is malformed or ambiguous.",
        "unauthenticated": "A valid token is required.",
        "cross_site": "A token from a cookie needs an Origin that may use it.",
        "step_up_required": "This request needs stronger authentication.",
        "insufficient_scope": "The token does not have what this service requires.",
        "iam_denied": "A policy does not permit this request.",
        "route_not_found": "No route matches this path.",
        "method_not_allowed": "This route does not accept the method.",
        "request_timeout": "The request arrived too slowly.",
        "body_too_large": "The request body is too large.",
        "uri_too_long": "The request target is too long.",
        "expectation_failed": "Only the expectation 100-continue is understood.",
        "headers_too_large": "The request header fields are too large.",
        "internal_error": "The gateway failed. The request ID leads to the log.",
        "iam_rejected": "The authorization service rejected the question, so nothing was forwarded.",
        "iam_overloaded": _NOT_ASKED,
        "identity_unavailable": "Tokens cannot be verified at the moment, so nothing was forwarded.",
        "overloaded": "The gateway has too much to do.",
        "draining": "The gateway is shutting down.",
        "upstream_circuit_open": "The upstream is failing and is given time to recover.",
        "upstream_error": "Too few of the systems behind this route answered.",
        "upstream_overloaded": "Too many requests wait for the upstream.",
        "upstream_unreachable": "The upstream could not be reached.",
        "upstream_protocol_error": "The upstream's response was broken.",
        "upstream_timeout": "The upstream did not answer in time.",
        "deadline_exceeded": "The request could not be completed within its deadline.",
    }
    | {code: _NOT_ASKED for code, kind in KINDS.items() if kind.degrades}
)


def spread_retry_after(seconds: float) -> int:
    """Seconds until a retry can help → the number to send: ≥ 1 and between ⌈s⌉ and ⌈1.2 s⌉.

    Up to a second it is 1, which no whole number spreads by a fifth.
    """
    if seconds <= 1.0:
        return 1
    return math.ceil(seconds * (1.0 + SPREAD * random.random()))  # noqa: S311 - spreads load, guards nothing


def moved_failure(status: int) -> int:
    """The status to send in place of a 5xx to a proxy that asks for `MOVED` and gives the caller the 5xx."""
    return status - 30


def render(
    error: GatewayError, *, server_name: str, request_id: str, route: str = "", retry_after: int | None = None
) -> tuple[int, Headers, bytes]:
    """Status, header fields (without `content-length`) and body of an error.

    `server_name` is `server.name`; `route` the id of the chosen route, if any. `retry_after` in whole seconds is sent
    as it is instead of the error's own; a kind without `Retry-After` never gets one.
    """
    kind = error.kind
    wait = _wait_s(error, retry_after)
    document: dict[str, object] = {
        "type": f"urn:gateway:problem:{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "code": kind.code,
        "detail": _detail(error, wait),
    }
    if route:
        document["route"] = route
    if wait is not None:
        document["retry_after"] = wait
    document["request_id"] = request_id
    headers = _headers(error, server_name, request_id, wait, b"application/problem+json")
    return kind.status, headers, json.dumps(document).encode("ascii")


def wants_page(request: Request) -> bool:
    """Whether a person asks: HTML is named, and JSON is not named as at least as welcome."""
    accept = request.values(b"accept")
    page = named_quality(accept, b"text/html")
    return page > max(named_quality(accept, json_type) for json_type in _JSON_TYPES)


def render_page(
    error: GatewayError, page: ErrorPage, request: Request, *, server_name: str
) -> tuple[int, Headers, bytes]:
    """As `render`, for people. A page that answers GET loads itself again when a retry can help."""
    wait = _wait_s(error, None)
    again = wait is not None and request.method == "GET"
    values = {
        "status": str(error.kind.status),
        "title": error.kind.title,
        "detail": _detail(error, wait),
        "retry_after": "" if wait is None else str(wait),
        "request_id": request.request_id,
    }
    shown = {name: html.escape(value) for name, value in values.items()}
    shown["refresh"] = f'<meta http-equiv="refresh" content="{wait}">' if again else ""
    body = "".join(shown[part] if index % 2 else part for index, part in enumerate(page.parts))
    headers = _headers(error, server_name, request.request_id, wait, b"text/html; charset=utf-8")
    headers += [(b"content-security-policy", page.policy), *_PAGE_FIELDS]
    return error.kind.status, headers, body.encode()


def _wait_s(error: GatewayError, given: int | None) -> int | None:
    if not error.kind.retry_after:
        return None
    return given or spread_retry_after(error.retry_after_s or 1.0)


def _detail(error: GatewayError, wait: int | None) -> str:
    detail = error.detail or _DETAILS[error.code]
    if wait is None:
        return detail
    return f"{detail} Try again in {wait} second{'' if wait == 1 else 's'}."


def _headers(error: GatewayError, server_name: str, request_id: str, wait: int | None, content_type: bytes) -> Headers:
    headers = [
        (b"content-type", content_type),
        (b"cache-control", b"no-store"),
        (b"x-request-id", request_id.encode("ascii")),
        (b"proxy-status", f"{server_name}; error={error.proxy_error}".encode("ascii")),
    ]
    if wait is not None:
        headers.append((b"retry-after", b"%d" % wait))
    headers.extend(error.headers)
    return headers
