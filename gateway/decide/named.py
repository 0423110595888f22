"""The request that another proxy asks about, as the pipeline sees every request.

Each proxy has an entry path of its own, because each names the original request in another way:

    /envoy/…   HTTP `ext_authz` with `path_prefix: /envoy`: the request's own method, and the rest of its target
    /nginx     `auth_request`: `X-Original-Method`, `X-Original-URI`
    /traefik   `forwardAuth`: `X-Forwarded-Method`, `X-Forwarded-Uri`, `-Host`, `-Proto`
    /caddy     `forward_auth`: the same

Only `server.trusted_proxies` may ask. A request that names no usable method and target, or one of them twice, is
refused and never guessed. The target stays as it was named, byte for byte: the pipeline judges it like any other.

Two fields that the exported configurations send where they choose the route before they ask. `X-Gateway-Route`: the
route that the proxy will forward by; another one decided on is refused, so that both always mean the same.
`X-Gateway-Spoofed: refuse`: the proxy can overwrite fields by name only, so a request with any other field by which a
gateway tells who is asking is refused. Neither can make more be permitted.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.forwarded import Builder, unparsed
from gateway.headers import tells_who_asks
from gateway.model.request import Request
from gateway.model.settings import ServerSettings

NGINX: Final = b"/nginx"
ENVOY: Final = b"/envoy"
_BELOW_ENVOY: Final = ENVOY + b"/"
_FIELDS: Final = {
    NGINX: (b"x-original-method", b"x-original-uri"),
    b"/traefik": (b"x-forwarded-method", b"x-forwarded-uri"),
    b"/caddy": (b"x-forwarded-method", b"x-forwarded-uri"),
}
_OWN: Final = frozenset(
    {
        *(b"x-forwarded-" + part for part in (b"for", b"proto", b"host", b"method", b"uri")),
        b"x-original-method",
        b"x-original-uri",
        b"x-gateway-route",
        b"x-gateway-spoofed",
    }
)
"""What the proxy writes itself, over whatever the client sent."""
_METHOD: Final = re.compile(rb"[A-Z][A-Z-]{0,31}")
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")


@dataclass(slots=True)
class NamedRequest(Request):
    """What was asked about. `door`: the entry path it came by. `fault`: why it cannot be judged, "" if it can.

    `route`: the id of the route that the proxy will forward by, None where it did not say.
    """

    door: bytes = b""
    fault: str = ""
    route: bytes | None = None


class NamedRequestBuilder(Builder[NamedRequest]):
    """ASGI scope of the decision listener → the request that it names. Raises nothing for what was sent."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(NamedRequest)

    def __call__(self, scope: MutableMapping[str, Any], settings: ServerSettings) -> NamedRequest:
        """The named request with its target unparsed, or with the `fault` for which it is refused."""
        named = super().__call__(scope, settings)
        raw = named.target.raw
        path = named.target.path
        if not named.trusted:
            named.fault = "Only a proxy in server.trusted_proxies may ask here."
        elif path.startswith(_BELOW_ENVOY):
            named.door = ENVOY
            _aim(named, named.method.encode("ascii"), raw[len(named.door) :], settings)
        elif path in _FIELDS:
            named.door = path
            _read_fields(named, settings)
        else:
            named.fault = "The entry paths are /envoy/…, /nginx, /traefik and /caddy."
        named.websocket = b"websocket" in [value.lower() for value in named.values(b"upgrade")]
        return named


def _read_fields(named: NamedRequest, settings: ServerSettings) -> None:
    """Take method, target and host from the fields of this entry path."""
    method_field, target_field = _FIELDS[named.door]
    methods, targets = named.values(method_field), named.values(target_field)
    hosts = named.values(b"x-forwarded-host")
    if len(methods) != 1 or len(targets) != 1:
        named.fault = "The original method and target are needed, each exactly once."
    elif len(hosts) > 1 or (hosts and not _HOST.fullmatch(hosts[0])):
        named.fault = "X-Forwarded-Host is no usable host."
    else:
        named.host = hosts[0].decode("ascii") if hosts else named.host
        _aim(named, methods[0], targets[0], settings)
    routes = named.values(b"x-gateway-route")
    if routes:
        named.route = b",".join(routes)
    if named.values(b"x-gateway-spoofed") and any(key not in _OWN and tells_who_asks(key) for key, _ in named.headers):
        named.fault = "A field of the request is one that only gateways may set."


def _aim(named: NamedRequest, method: bytes, target: bytes, settings: ServerSettings) -> None:
    if not _METHOD.fullmatch(method):
        named.fault = "The original method is not usable."
    elif not target.startswith(b"/"):
        named.fault = "The original target is not in origin form."
    elif len(target) > settings.max_uri:
        named.fault = "The original target is too long."
    else:
        named.method = method.decode("ascii")
        named.target = unparsed(target)
