"""Who may use the admin listener: checked before anything else is looked at.

Rules: `Host` must be the listener's own, the very address that was connected to, or one of `admin_hosts`: a browser on
a hostile page can be led to loopback by a name of its own (DNS rebinding), but then it says that name. Only the probes
may say any or none: load balancers do, and they learn one word. Off loopback everything but the probes, `/metrics` and
the page's files needs the admin token. A change needs `X-Gateway-Admin: 1`, which no form and no simple cross-origin
request can send, and no `Origin` other than the listener itself.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.admin.assets import PAGE, PUBLIC_FILES, asset
from gateway.model.settings import Address

# Errors of the admin listener: problem+json (RFC 9457), never stored. Nothing that was sent is repeated in them.


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """One error as a response."""
    document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(
        document, status, {"cache-control": "no-store", **(headers or {})}, media_type="application/problem+json"
    )


_PROBES: Final = frozenset({"/livez", "/readyz"})
_WITHOUT_TOKEN: Final = frozenset({"/metrics", *(f"/{name}" for name in PUBLIC_FILES)})
_READING: Final = frozenset({"GET", "HEAD"})
_CHALLENGE: Final = {"www-authenticate": 'Bearer realm="admin"'}


class AdminGuard:
    """ASGI middleware in front of the admin application."""

    def __init__(self, app: ASGIApp, *, listen: Address, token: str | None, hosts: frozenset[str]) -> None:
        self._app = app
        self._token = token
        self._named = frozenset(host.lower() for host in hosts)
        self._hosts = self._named | _own_names(listen)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        if scope["type"] == "http":
            refusal = self._refusal(scope, Headers(scope=scope))
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        reading, path = scope["method"] in _READING, scope["path"]
        if reading and path in _PROBES:
            return None
        if not self._addressed(scope, headers.getlist("host")):
            return problem(421, "The Host of this request is not one of this listener's (server.admin_hosts).")
        if not (reading and path in _WITHOUT_TOKEN) and not self._permitted(headers):
            return _ask_for_token(path, headers)
        return None if reading else self._change_refused(headers)

    def _change_refused(self, headers: Headers) -> Response | None:
        if headers.get("x-gateway-admin") != "1":
            return problem(403, "A change needs the header X-Gateway-Admin: 1.")
        origins = headers.getlist("origin")
        if not origins:
            return None
        try:
            authority = urlsplit(origins[0]).netloc.lower()
        except ValueError:
            return problem(400, "The Origin is not one.")
        if len(origins) == 1 and self._is_here(authority, headers):
            return None
        return problem(403, "A change may not come from a foreign origin.")

    def _addressed(self, scope: Scope, hosts: list[str]) -> bool:
        if len(hosts) != 1 or not hosts[0]:
            return False
        return self._known(hosts[0]) or _without_port(hosts[0].lower()) == _local_address(scope)

    def _permitted(self, headers: Headers) -> bool:
        return self._token is None or _bears(headers, self._token)

    def _is_here(self, authority: str, headers: Headers) -> bool:
        """Whether the page that sends this is this listener's own, or one of `admin_hosts`."""
        if not authority:
            return False
        return authority == headers["host"].lower() or bool({authority, _without_port(authority)} & self._named)

    def _known(self, authority: str) -> bool:
        authority = authority.lower()
        return authority in self._hosts or _without_port(authority) in self._hosts


def _ask_for_token(path: str, headers: Headers) -> Response:
    """To a browser the page, which has a field for it."""
    if path == "/" and "text/html" in headers.get("accept", ""):
        return asset(PAGE, 401, _CHALLENGE)
    return problem(401, "The admin token is needed.", _CHALLENGE)


def _bears(headers: Headers, token: str) -> bool:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and secrets.compare_digest(given.strip().encode(), token.encode())


def _own_names(listen: Address) -> frozenset[str]:
    """The names under which the listener may be addressed, without ports."""
    names = {listen.host.lower(), f"[{listen.host.lower()}]"}
    try:
        address = ipaddress.ip_address(listen.host)
    except ValueError:
        return frozenset(names)
    if address.is_loopback or address.is_unspecified:
        names |= {"localhost", "127.0.0.1", "[::1]"}
    return frozenset(names)


def _local_address(scope: Scope) -> str:
    """Our end of the connection: nobody can be led here by that name who is not here already."""
    host = (scope.get("server") or ("",))[0]
    return f"[{host}]" if ":" in host else str(host)


def _without_port(authority: str) -> str:
    host, colon, port = authority.rpartition(":")
    return host if colon and port.isdigit() and (not host.count(":") or host.endswith("]")) else authority
