"""The header of an upstream's response as the caller of a route gets it."""

from __future__ import annotations

from typing import Final

from gateway.exchange import Exchange
from gateway.forward import cors
from gateway.headers import client_response_headers
from gateway.model.record import AccessRecord
from gateway.model.request import Header, Headers
from gateway.model.route import Route

_BODILESS: Final = frozenset({204, 304})


def shown_headers(status: int, headers: Headers, exchange: Exchange, *, route: Route, via: bytes) -> Headers:
    """The upstream's fields, less hop-by-hop ones and what this route says itself, with the gateway's own added.

    A 204 or 304 has no length of its own here (RFC 9110 section 8.6).
    """
    shown = client_response_headers(headers, via=via, request_id=exchange.request.request_id)
    if status in _BODILESS:
        shown = [header for header in shown if header[0] != b"content-length"]
    if route.cors is not None:
        shown = [header for header in shown if not header[0].startswith(cors.OWN)]
    if route.server_timing:
        shown.append(server_timing(exchange.record))
    return shown


def server_timing(record: AccessRecord) -> Header:
    """Where the time went, in milliseconds (W3C Server Timing)."""
    return b"server-timing", b"iam;dur=%.1f, upstream;dur=%.1f" % (record.authz_s * 1000, record.upstream_s * 1000)
