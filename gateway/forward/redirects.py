"""Where an upstream says that its things are, as the caller reaches them: `Location`, `Content-Location`, cookies.

Rules: a URL of the upstream's own origin becomes a path, so that the caller stays at the gateway and internal addresses
stay inside; under `strip_prefix` the prefix that was taken off is put before such a path, before one that says no
origin, and before a cookie's `Path`, unless it is there already (an upstream may know of it by `X-Forwarded-Prefix`).
A prefix that a trusted proxy took off before us goes before ours: the caller knows the path with both.
URLs of others, relative paths, and `__Host-` cookies (RFC 6265bis section 4.1.3.2: their path is `/`) stay as they are.
A cookie's `Domain` that is the upstream's own host is left out: the cookie is then the gateway's.
What nginx does as `proxy_redirect default` and, for cookies, by `proxy_cookie_path`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from operator import itemgetter
from typing import Final

from gateway.headers import outer_prefix
from gateway.model.request import Headers, Request

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
            return self._prefixed(value, outer) if value.startswith(b"/") else value
        scheme, authority = (absolute[1] or b"").lower(), absolute[2].lower()
        if authority not in own and authority.removesuffix(_DEFAULT_PORTS.get(scheme, b"")) not in own:
            return value
        path = value[absolute.end() :]
        return self._prefixed(path if path.startswith(b"/") else b"/" + path, outer)

    def _prefixed(self, path: bytes, outer: bytes) -> bytes:
        if outer and _is_under(path, outer + self._prefix):
            return path
        if not _is_under(path, self._prefix):
            return outer + self._prefix + path
        if outer:
            return outer + path
        # `//host` and what browsers read as that would name another origin (RFC 3986 section 4.2).
        return b"/." + path if path[1:2] in (b"/", b"\\") else path

    def _cookie(self, value: bytes, outer: bytes) -> bytes:
        if value[:7].lower() == b"__host-":
            return value
        domain = _DOMAIN.search(value)
        if domain is not None and domain[1].lower() in self._hosts:
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
