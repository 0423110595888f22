"""CORS for routes that say `cors`: preflights are answered here, and every answer carries what a browser needs.

Deliberately absent: patterns of origins, a list of allowed request headers (all that are requested are granted).
"""

from __future__ import annotations

import re
from typing import Final

from gateway.model.request import Header, Headers, Request
from gateway.model.route import Cors, Route

# CORS fields of an upstream are dropped on these routes: two sets would contradict each other.
OWN: Final = b"access-control-"
"""What the names of all header fields of this protocol begin with."""

_ANY: Final = "*"
_VARY: Final[Header] = (b"vary", b"Origin")
_PREFLIGHT_VARY: Final[Header] = (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
_FIELD_NAMES: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z, \t-]{1,4096}")


def preflight(route: Route, request: Request) -> tuple[int, Headers] | None:
    """The answer to a CORS preflight for this route, None if the request is not one.

    A preflight is an OPTIONS with `Origin` and `Access-Control-Request-Method`; any other OPTIONS is a request.
    """
    cors = route.cors
    if cors is None or request.method != "OPTIONS" or not request.values(b"access-control-request-method"):
        return None
    if not request.values(b"origin"):
        return None
    # It has no credentials, so it is answered before IAM or the upstream is asked.
    headers: Headers = [_PREFLIGHT_VARY]
    origin = _allowed(cors, request)
    if origin is not None:
        headers += _permission(cors, origin)
        headers += _granted(route, cors, request)
    return 204, headers


def response_headers(cors: Cors, request: Request) -> Headers:
    """What every answer of the route carries, errors too."""
    origin = _allowed(cors, request)
    if origin is None:
        # Without permission, never a 403, which is a policy's; `Vary` so that no cache confuses origins.
        return [_VARY]
    return [_VARY, *_permission(cors, origin), (b"access-control-expose-headers", cors.exposed)]


def _allowed(cors: Cors, request: Request) -> bytes | None:
    """What to write as the allowed origin, None if the request's is not."""
    values = request.values(b"origin")
    if len(values) != 1:
        return None
    if _ANY in cors.origins:
        # With credentials the origin itself is written, never `*` (Fetch standard, section 3.2).
        return values[0] if cors.credentials else b"*"
    return values[0] if values[0].decode("latin-1") in cors.origins else None


def _permission(cors: Cors, origin: bytes) -> Headers:
    headers = [(b"access-control-allow-origin", origin)]
    if cors.credentials:
        headers.append((b"access-control-allow-credentials", b"true"))
    return headers


def _granted(route: Route, cors: Cors, request: Request) -> Headers:
    headers: Headers = [
        (b"access-control-allow-methods", ", ".join(sorted(route.methods)).encode("ascii")),
        (b"access-control-max-age", b"%d" % cors.max_age_s),
    ]
    asked = b", ".join(request.values(b"access-control-request-headers"))
    if _FIELD_NAMES.fullmatch(asked):
        headers.append((b"access-control-allow-headers", asked))
    return headers
