"""The decision listener: another proxy asks whether a request may go on, and forwards it itself."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.exchange import Exchange, Receive, Send
from gateway.forward.heads import DEGRADED, iam_mark
from gateway.forwarded import Builder, unparsed
from gateway.headers import tells_who_asks, visible
from gateway.model.permit import Fallback, Permit
from gateway.model.request import AccessRecord, Headers, Request
from gateway.model.route import Route
from gateway.model.settings import ServerSettings
from gateway.pipeline import ActiveConfig, Pipeline, Service, match
from gateway.problem import FAILURES_FIELD, MOVED, moved_failure, wants_page
from gateway.resilience.deadline import Deadline
from gateway.routing import method_not_allowed
from gateway.telemetry.observer import Observer, Span

# The request that another proxy asks about, as the pipeline sees every request.
#
# Each proxy has an entry path of its own, because each names the original request in another way:
#
#     /envoy/…   HTTP `ext_authz` with `path_prefix: /envoy`: the request's own method, and the rest of its target
#     /nginx     `auth_request`: `X-Original-Method`, `X-Original-URI`
#     /traefik   `forwardAuth`: `X-Forwarded-Method`, `X-Forwarded-Uri`, `-Host`, `-Proto`
#     /caddy     `forward_auth`: the same
#
# Only `server.trusted_proxies` may ask. A request that names no usable method and target, or one of them twice, is
# refused and never guessed. The target stays as it was named, byte for byte: the pipeline judges it like any other.
#
# Two fields that the exported configurations send where they choose the route before they ask. `X-Gateway-Route`: the
# route that the proxy will forward by; another one decided on is refused, so that both always mean the same.
# `X-Gateway-Spoofed: refuse`: the proxy can overwrite fields by name only, so a request with any other field by which
# a gateway tells who is asking is refused. Neither can make more be permitted.

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
_USUAL: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_METHOD: Final = re.compile(r"[A-Z][A-Z-]{0,31}")
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
            _aim(named, named.method, raw[len(ENVOY) :], settings)
        elif path in _FIELDS:
            named.door = path
            _read_fields(named, settings)
        else:
            named.fault = "The entry paths are /envoy/…, /nginx, /traefik and /caddy."
        upgrades = named.values(b"upgrade")
        named.websocket = bool(upgrades) and b"websocket" in [value.lower() for value in upgrades]
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
        _aim(named, methods[0].decode("latin-1"), targets[0], settings)
    routes = named.values(b"x-gateway-route")
    if routes:
        named.route = b",".join(routes)
    if named.values(b"x-gateway-spoofed") and any(key not in _OWN and tells_who_asks(key) for key, _ in named.headers):
        named.fault = "A field of the request is one that only gateways may set."


def _aim(named: NamedRequest, method: str, target: bytes, settings: ServerSettings) -> None:
    if method not in _USUAL and not _METHOD.fullmatch(method):
        named.fault = "The original method is not usable."
    elif not target.startswith(b"/"):
        named.fault = "The original target is not in origin form."
    elif len(target) > settings.max_uri:
        named.fault = "The original target is too long."
    else:
        named.method = method
        named.target = unparsed(target)


# The pipeline of the decision listener: the same four steps, whose last one answers the proxy instead of forwarding.
#
# A 2xx means "let it through" to every proxy that asks. So only a permit is answered with 200, and nothing else ever
# with a 2xx: a route's own fallback response and the answer to a CORS preflight are the gateway's to give, and
# another proxy would forward the request after them.

_PROBLEM: Final = b"x-gateway-problem"
_FAILURES: Final = FAILURES_FIELD.encode("ascii")
_MOVED: Final = MOVED.encode("ascii")
_SERVER_ERROR: Final = 500
_OK: Final = 200
_OTHER_ROUTE: Final = "The proxy in front would forward this by another route."


class DecisionExchange(Exchange):
    """An exchange whose response answers the proxy's own request, not the one that it names."""

    __slots__ = ("_bodiless", "_moves_failures", "_problem_as_field")

    def __init__(
        self,
        scope: MutableMapping[str, Any],
        request: NamedRequest,
        record: AccessRecord,
        span: Span,
        receive: Receive,
        send: Send,
    ) -> None:
        super().__init__(request, record, span, scope["extensions"]["gateway.edge"], receive, send)
        self._bodiless = scope.get("method") == "HEAD"
        self._websocket = scope["type"] == "websocket"
        self._problem_as_field = request.door == NGINX
        self._moves_failures = request.door == ENVOY

    async def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """A whole response. nginx drops the body of a refusal, so for nginx it is repeated in a field.

        Envoy drops everything of a 5xx, so its exported configuration asks for 47x in its place and turns that back.
        The record keeps the status that the caller gets.
        """
        framed = [*headers, (b"content-length", b"%d" % len(body))]
        if self._problem_as_field and body:
            framed.append((_PROBLEM, body))
        sent = status
        if status >= _SERVER_ERROR and self._moves_failures and self.request.values(_FAILURES) == [_MOVED]:
            sent = moved_failure(status)
        await self.whole(sent, framed, b"" if self._bodiless else body)
        self.record.status = status


class DecisionPipeline(Pipeline[NamedRequest]):
    """The ASGI application of the decision listener. `site` is the one that the public listener serves."""

    def __init__(self, site: ActiveConfig, observer: Observer) -> None:
        super().__init__(site, observer, NamedRequestBuilder())

    def _exchange(
        self,
        scope: MutableMapping[str, Any],
        request: NamedRequest,
        record: AccessRecord,
        span: Span,
        receive: Receive,
        send: Send,
    ) -> Exchange:
        return DecisionExchange(scope, request, record, span, receive, send)

    def _service(self, exchange: Exchange, site: ActiveConfig) -> Service:
        request = exchange.request
        if not isinstance(request, NamedRequest):
            raise GatewayError("internal_error", reason="the decision listener has a request that nobody named")
        if request.fault:
            raise GatewayError("bad_request", request.fault, reason=request.fault)
        service = match(exchange, site)
        if request.route is not None and request.route != service.route.id.encode("ascii"):
            raise GatewayError("bad_request", _OTHER_ROUTE, reason="the proxy would forward by another route")
        return service

    async def _cors(self, exchange: Exchange, route: Route) -> bool:
        """A preflight is no decision: it needs what every request needs, or the other proxy answers it."""
        if exchange.request.method not in route.methods:
            raise method_not_allowed(route)
        return False

    async def _carry_out(
        self,
        service: Service,  # the other proxy has the endpoint
        permit: Permit,
        exchange: Exchange,
        deadline: Deadline,  # there is nothing left to wait for
    ) -> None:
        await exchange.respond(_OK, granted(permit))

    def _wants_page(self, request: Request) -> bool:
        """Never through nginx: it drops the body, and a field cannot carry a page."""
        return not (isinstance(request, NamedRequest) and request.door == NGINX) and wants_page(request)

    async def _fall_back(self, fallback: Fallback, exchange: Exchange) -> None:  # nothing is answered
        raise GatewayError(fallback.code, reason="the fallback response is not for another proxy")


def granted(permit: Permit) -> Headers:
    """What the other proxy is to send along with a permitted request."""
    headers = [
        (b"cache-control", b"no-store"),
        (b"x-request-id", permit.request.request_id.encode("ascii")),
        (b"x-gateway-route", permit.route.id.encode("ascii")),
    ]
    subject, mark = permit.subject, iam_mark(permit)
    if subject is not None and subject.identified:
        headers.append((b"x-auth-subject", visible(subject.id)))
        headers += subject.headers
    if mark is not None:
        headers.append((DEGRADED, mark))
    return headers
