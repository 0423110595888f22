"""The pipeline of the decision listener: the same four steps, whose last one answers the proxy instead of forwarding.

A 2xx means "let it through" to every proxy that asks. So only a permit is answered with 200, and nothing else ever
with a 2xx: a route's own fallback response and the answer to a CORS preflight are the gateway's to give, and another
proxy would forward the request after them.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Final

from gateway.decide.named import ENVOY, NGINX, NamedRequest, NamedRequestBuilder
from gateway.errors import GatewayError
from gateway.exchange import Exchange, Receive, Send
from gateway.forward.marks import DEGRADED, iam_mark
from gateway.headers import visible
from gateway.model.permit import Fallback, Permit
from gateway.model.record import AccessRecord
from gateway.model.request import Headers, Request
from gateway.model.route import Route
from gateway.pipeline import Pipeline, Service, Site, match
from gateway.problem import FAILURES_FIELD, MOVED, moved_failure, wants_page
from gateway.resilience.deadline import Deadline
from gateway.routing import method_not_allowed
from gateway.telemetry.observer import Observer, Span

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

    def __init__(self, site: Site, observer: Observer) -> None:
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

    def _service(self, exchange: Exchange, site: Site) -> Service:
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
