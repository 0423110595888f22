"""Heads as they are sent on: the request to an upstream, and the response to the caller, marked when degraded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from operator import itemgetter
from typing import Final

from gateway.exchange import Exchange
from gateway.forward import cors
from gateway.headers import HeaderRules, client_response_headers, outer_prefix, upstream_request_headers
from gateway.model.permit import Permit
from gateway.model.request import AccessRecord, Header, Headers, Request, Target
from gateway.model.route import FallbackResponse, ProxyAction, Route

# The head of a forwarded request: the target that was decided and the header the upstream gets.
#
# Rules: the target is the caller's bytes; `strip_prefix` takes off as many leading segments as the prefix has
# (routing has shown that they are the prefix, however they were written), an empty rest becomes `/`, and the upstream
# is told what is missing by `X-Forwarded-Prefix`. Nothing is normalised, joined or encoded here.


class OutgoingHead:
    """Makes heads for one route. `authority` is the upstream's own `Host`."""

    __slots__ = ("_host", "_prefix", "_rules", "_segments")

    def __init__(self, action: ProxyAction, authority: bytes, rules: HeaderRules) -> None:
        self._rules = rules
        self._host = None if action.preserve_host else authority
        self._prefix = action.strip_prefix.rstrip(b"/") or None if action.strip_prefix else None
        self._segments = self._prefix.count(b"/") if self._prefix else 0

    def target(self, target: Target) -> bytes:
        """What stands in the request line."""
        return without_segments(target, self._segments) if self._segments else target.raw

    def headers(self, permit: Permit, degraded: bytes | None, traceparent: bytes | None = None) -> Headers:
        """The header, without framing. Raises `bad_request` for a `Connection` that names what it must not."""
        return upstream_request_headers(
            permit.request,
            rules=self._rules,
            host=self._host,
            subject=permit.subject,
            traceparent=traceparent,
            prefix=self._prefix,
            degraded=degraded,
        )


def without_segments(target: Target, count: int) -> bytes:
    """The target's bytes without its first `count` path segments."""
    path = target.path
    end = 0
    for _ in range(count):
        end = path.find(b"/", end + 1)
        if end < 0:
            return b"/" + target.raw[len(path) :]
    return target.raw[end:]


# What a degraded answer says of itself: the `X-Gateway-Degraded` field, to the caller and to the upstream.
#
# `iam; mode=stale; age=12` for a permit that IAM did not give now; `upstream; mode=stale; age=30` for an answer that
# the upstream did not give now. Ages are whole seconds.

DEGRADED: Final = b"x-gateway-degraded"


def iam_mark(permit: Permit) -> bytes | None:
    """What to say of a degraded permit, None if IAM decided."""
    if permit.degraded is None:
        return None
    return _mark("iam", permit.degraded, permit.age_s)


def upstream_mark(mode: str, age_s: float = 0.0) -> bytes:
    """What to say of an answer that is not the upstream's own of now: mode stale, fallback or partial."""
    return _mark("upstream", mode, age_s)


def iam_fallback_mark() -> bytes:
    """What a route's own response says, given while IAM cannot answer."""
    return _mark("iam", "fallback", 0.0)


def mark_degraded_permit(permit: Permit, exchange: Exchange) -> bytes | None:
    """Let every answer of this exchange say that its permit is degraded. Returns what it says, None if nothing."""
    mark = iam_mark(permit)
    if mark is not None:
        exchange.extra.append((DEGRADED, mark))
    return mark


async def respond_with(exchange: Exchange, response: FallbackResponse) -> None:
    """The route's own answer, made at load. It is for now, so nobody is to keep it."""
    headers = [header for header in response.headers if header[0] != b"cache-control"]
    headers += [(b"cache-control", b"no-store"), (b"x-request-id", exchange.request.request_id.encode("ascii"))]
    await exchange.respond(response.status, headers, response.body)


def _mark(who: str, mode: str, age_s: float) -> bytes:
    age = f"; age={int(age_s)}" if mode == "stale" else ""
    return f"{who}; mode={mode}{age}".encode("ascii")


# The header of an upstream's response as the caller of a route gets it.

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


# Where an upstream says that its things are, as the caller reaches them: `Location`, `Content-Location`, cookies.
# What nginx does as `proxy_redirect default` and, for cookies, by `proxy_cookie_path`.

REWRITTEN: Final = frozenset({b"location", b"content-location", b"set-cookie"})
_name: Final = itemgetter(0)
_ABSOLUTE: Final = re.compile(rb"(?:(https?):)?//([^/?#\\]*)", re.IGNORECASE)
_PATH: Final = re.compile(rb"(;[ \t]*path=)(/[^;]*)", re.IGNORECASE)
_DOMAIN: Final = re.compile(rb";[ \t]*domain=\.?([^; \t]*)[ \t]*", re.IGNORECASE)
_DEFAULT_PORTS: Final = {b"http": b":80", b"https": b":443"}


class Redirects:
    """Rewrites for one route.

    `authorities`: `host:port` of each origin, as its URL has it; `prefix` without `/` at its end, empty where nothing
    is taken off; `preserves_host`: the upstream takes the caller's host for its own.
    """

    __slots__ = ("_authorities", "_hosts", "_prefix", "_preserves_host")

    def __init__(self, authorities: Iterable[bytes], prefix: bytes, *, preserves_host: bool) -> None:
        self._authorities = frozenset(authority.lower() for authority in authorities)
        self._hosts = frozenset(_host(authority) for authority in self._authorities)
        self._prefix = prefix
        self._preserves_host = preserves_host

    def rewritten(self, headers: Headers, request: Request) -> Headers:
        """The fields of the answer to `request` as its caller gets them."""
        if REWRITTEN.isdisjoint(map(_name, headers)):
            return headers
        # A URL of the upstream's own origin becomes a path, so that internal addresses stay inside.
        own = self._authorities
        if self._preserves_host:
            own |= {request.host.lower().encode("latin-1")}
        outer = outer_prefix(request) if self._prefix else b""
        return [
            (name, self._field(name, value, own, outer)) if name in REWRITTEN else (name, value)
            for name, value in headers
        ]

    def _field(self, name: bytes, value: bytes, own: frozenset[bytes], outer: bytes) -> bytes:
        return self._cookie(value, outer) if name == b"set-cookie" else self._url(value, own, outer)

    def _url(self, value: bytes, own: frozenset[bytes], outer: bytes) -> bytes:
        absolute = _ABSOLUTE.match(value)
        if absolute is None:
            # Relative paths, and below URLs of others, stay as they are.
            return self._prefixed(value, outer) if value.startswith(b"/") else value
        scheme, authority = (absolute[1] or b"").lower(), absolute[2].lower()
        if authority not in own and authority.removesuffix(_DEFAULT_PORTS.get(scheme, b"")) not in own:
            return value
        path = value[absolute.end() :]
        return self._prefixed(path if path.startswith(b"/") else b"/" + path, outer)

    def _prefixed(self, path: bytes, outer: bytes) -> bytes:
        if outer and _is_under(path, outer + self._prefix):
            # An upstream may know of the prefix by `X-Forwarded-Prefix`.
            return path
        if not _is_under(path, self._prefix):
            # A trusted proxy's own prefix goes before ours: the caller knows the path with both.
            return outer + self._prefix + path
        if outer:
            return outer + path
        # `//host` and what browsers read as that would name another origin (RFC 3986 section 4.2).
        return b"/." + path if path[1:2] in (b"/", b"\\") else path

    def _cookie(self, value: bytes, outer: bytes) -> bytes:
        # Its path is `/` (RFC 6265bis section 4.1.3.2).
        if value[:7].lower() == b"__host-":
            return value
        domain = _DOMAIN.search(value)
        if domain is not None and domain[1].lower() in self._hosts:
            # Without its domain the cookie is the gateway's.
            value = value[: domain.start()] + value[domain.end() :]
        if not self._prefix:
            return value

        def path(found: re.Match[bytes]) -> bytes:
            whole = outer + self._prefix
            return found[1] + (whole if found[2].rstrip() == b"/" else self._prefixed(found[2], outer))

        return _PATH.sub(path, value)


def _is_under(path: bytes, prefix: bytes) -> bool:
    return path.startswith(prefix) and (path == prefix or path[len(prefix) : len(prefix) + 1] in (b"/", b"?", b"#"))


def _host(authority: bytes) -> bytes:
    host, colon, port = authority.rpartition(b":")
    return host if colon and port.isdigit() else authority
