"""Who may use the admin listener: checked before anything else is looked at.

Rules (CONTRACT.md section 10): `Host` must be the listener's own or one of `admin_hosts` (a browser on a hostile page
can reach loopback, but not under a name of ours); off loopback every path but the probes and `/metrics` needs the
admin token; a POST needs `X-Gateway-Admin: 1`, which no form and no simple cross-origin request can send, and no
foreign `Origin`.
"""

from __future__ import annotations

import ipaddress
import secrets
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.model.settings import Address

OPEN_PATHS: Final = frozenset({"/livez", "/readyz", "/metrics"})


class AdminGuard:
    """ASGI middleware in front of the admin application."""

    def __init__(self, app: ASGIApp, *, listen: Address, token: str | None, hosts: frozenset[str]) -> None:
        self._app = app
        self._token = token
        self._hosts = frozenset(host.lower() for host in hosts) | _own_names(listen)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        if scope["type"] == "http":
            refusal = self._refusal(scope["method"], scope["path"], Headers(scope=scope))
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, method: str, path: str, headers: Headers) -> JSONResponse | None:
        if path in OPEN_PATHS and method in {"GET", "HEAD"}:
            return None
        if not self._known(headers.get("host", "")):
            return _problem(421, "The Host of this request is not one of this listener's.")
        if self._token is not None and not _bears(headers, self._token):
            return _problem(401, "The admin token is needed.", {"www-authenticate": 'Bearer realm="admin"'})
        if method not in {"GET", "HEAD"}:
            if headers.get("x-gateway-admin") != "1":
                return _problem(403, "A change needs the header X-Gateway-Admin: 1.")
            origin = headers.get("origin")
            if origin is not None and not self._known(urlsplit(origin).netloc):
                return _problem(403, "A change may not come from a foreign origin.")
        return None

    def _known(self, authority: str) -> bool:
        authority = authority.lower()
        return authority in self._hosts or _without_port(authority) in self._hosts


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


def _without_port(authority: str) -> str:
    host, colon, port = authority.rpartition(":")
    return host if colon and port.isdigit() and (not host.count(":") or host.endswith("]")) else authority


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    document = {"type": "about:blank", "status": status, "detail": detail}
    return JSONResponse(
        document, status, {"cache-control": "no-store", **(headers or {})}, media_type="application/problem+json"
    )
