"""The taxonomy of refusals: every error of the gateway's own, in one table.

A stage that cannot go on raises a `GatewayError` with a code of the table; the pipeline's one error boundary turns it
into problem+json (RFC 9457) with `Proxy-Status` (RFC 9209). Nothing here knows HTTP framing, and nothing elsewhere
knows statuses, titles or who is to blame.

Rules: 403 only ever means that a policy said no, or that the token lacks what `required` asks for; "could not ask" is
503 with `Retry-After`; `degrades` marks the failures of IAM itself, the only ones that a degrade rule may answer;
`counts` says whether IAM's breaker counts the code.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


class Source(enum.StrEnum):
    """Whose fault a refusal is."""

    CLIENT = "client"
    GATEWAY = "gateway"
    IAM = "iam"
    UPSTREAM = "upstream"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a code means to the caller. `retry_after`: the answer carries `Retry-After`."""

    code: str
    status: int
    title: str
    proxy_error: str
    source: Source
    retry_after: bool = False
    degrades: bool = False


def _kinds() -> dict[str, Kind]:
    c, g, i, u = Source.CLIENT, Source.GATEWAY, Source.IAM, Source.UPSTREAM
    rows = [
        Kind("bad_request", 400, "Bad request", "http_request_error", c),
        Kind("unauthenticated", 401, "Authentication required", "http_request_error", c),
        Kind("cross_site", 400, "Cross-site request", "http_request_error", c),
        Kind("step_up_required", 401, "Stronger authentication required", "http_request_denied", c),
        Kind("insufficient_scope", 403, "Insufficient scope", "http_request_denied", c),
        Kind("iam_denied", 403, "Access denied", "http_request_denied", c),
        Kind("route_not_found", 404, "No such route", "http_request_error", c),
        Kind("method_not_allowed", 405, "Method not allowed", "http_request_error", c),
        Kind("request_timeout", 408, "Request too slow", "http_request_error", c),
        Kind("body_too_large", 413, "Body too large", "http_request_error", c),
        Kind("uri_too_long", 414, "URI too long", "http_request_error", c),
        Kind("expectation_failed", 417, "Expectation failed", "http_request_error", c),
        Kind("headers_too_large", 431, "Header fields too large", "http_request_error", c),
        Kind("internal_error", 500, "Internal error", "proxy_internal_error", g),
        Kind("iam_rejected", 502, "Authorization question rejected", "proxy_internal_response", i),
        Kind("upstream_unreachable", 502, "Upstream unreachable", "connection_refused", u),
        Kind("upstream_protocol_error", 502, "Upstream protocol error", "http_protocol_error", u),
        Kind("upstream_timeout", 504, "Upstream timeout", "connection_read_timeout", u),
        Kind("deadline_exceeded", 504, "Deadline exceeded", "http_response_timeout", u),
    ]
    internal = "proxy_internal_response"
    unavailable = "Authorization service unavailable"
    rows += [
        Kind(code, 503, unavailable, internal, i, retry_after=True, degrades=True)
        for code in (
            "iam_circuit_open",
            "iam_timeout",
            "iam_unreachable",
            "iam_error",
            "iam_invalid_response",
            "iam_auth_error",
        )
    ]
    busy = "connection_limit_reached"
    rows += [
        Kind("iam_overloaded", 503, "Authorization queue full", busy, g, retry_after=True),
        Kind("overloaded", 503, "Gateway overloaded", busy, g, retry_after=True),
        Kind("identity_unavailable", 503, "Identity keys unavailable", internal, g, retry_after=True),
        Kind("draining", 503, "Gateway is shutting down", internal, g, retry_after=True),
        Kind("upstream_circuit_open", 503, "Upstream unavailable", "destination_unavailable", u, retry_after=True),
        Kind("upstream_error", 503, "Too few systems answered", "destination_unavailable", u, retry_after=True),
        Kind("upstream_overloaded", 503, "Upstream overloaded", busy, u, retry_after=True),
    ]
    return {kind.code: kind for kind in rows}


KINDS: Final = MappingProxyType(_kinds())


class GatewayError(Exception):
    """A refusal. Raised by any stage, turned into a response in one place (the pipeline).

    `retry_after_s`: seconds until a retry can help, before spreading and rounding (None: 1 where the kind has one).
    `sent`: whether any byte of the request may have reached the failing peer; False makes a retry safe for any method.
    `proxy_error`: a more exact RFC 9209 error type than the kind's own, e.g. `dns_error`.
    `detail` is shown to the caller: never a token, a host name of ours, or text of a peer.
    `headers`: extra response header fields (`Allow`, `WWW-Authenticate`).
    `reason` is for logs only: why, in words an operator needs.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        retry_after_s: float | None = None,
        sent: bool = True,
        proxy_error: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        reason: str = "",
    ) -> None:
        super().__init__(code, detail)
        self.kind = KINDS[code]
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.sent = sent
        self.proxy_error = proxy_error or self.kind.proxy_error
        self.headers = headers
        self.reason = reason

    @property
    def code(self) -> str:
        """The code of the contract, e.g. `iam_timeout`."""
        return self.kind.code

    def __str__(self) -> str:
        return f"{self.kind.code}: {self.reason or self.detail or self.kind.title}"
