"""The life of a request: one function, four steps, one error boundary, one access record.

    1 what?    routing     canonical target → exactly one Route            400 · 404 · 405
    2 who?     identity    credentials → Subject                           401
    3 may?     authorize   checks, Subject → decisions → Permit           403 · 503
    4 forward  forward     Permit → proxy, aggregate, navigation …         502 · 503 · 504

Rules: nothing is forwarded without the Permit of step 3. Every exception ends here and becomes problem+json, or, if the
response has begun, an aborted connection. A caller who leaves cancels the request's task: that is no error, and affects
nobody else. A task that is cancelled otherwise ran longer than the drain: `draining`. For a bug, the caller gets a 500
without details, and the operator a full record.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from gateway.errors import GatewayError
from gateway.exchange import Exchange, Receive, Send
from gateway.forward.cors import preflight, response_headers
from gateway.forward.heads import DEGRADED, iam_fallback_mark, respond_with
from gateway.identity import PlacedTokens
from gateway.model.permit import Fallback, Permit
from gateway.model.request import AccessRecord, Headers, Request, Subject
from gateway.model.route import AccessKind, Route
from gateway.model.settings import ServerSettings
from gateway.problem import render, render_page, wants_page
from gateway.resilience.admission import Limit, Place
from gateway.resilience.deadline import Deadline, DeadlineExceeded
from gateway.routing import Router, method_not_allowed, parse_target
from gateway.telemetry.observer import Observer, Span


class Identify(Protocol):
    """Step 2: who is the caller?"""

    async def identify(self, request: Request) -> Subject:
        """The subject, or GatewayError `unauthenticated`, `identity_unavailable`."""

    def late(self) -> GatewayError:
        """The refusal of a request whose deadline ended within `identify`."""


class Authorize(Protocol):
    """Step 3: is it permitted?"""

    async def authorize(
        self,
        request: Request,
        route: Route,
        subject: Subject | None,
        deadline: Deadline,
        record: AccessRecord,
        span: Span,
    ) -> Permit | Fallback:
        """The permit, or the route's own response while IAM cannot answer; GatewayError `iam_denied`, `iam_*`."""


class Endpoint(Protocol):
    """Step 4: what a route does with a permit."""

    def __call__(self, permit: Permit, exchange: Exchange, deadline: Deadline) -> Coroutine[Any, Any, None]:
        """Answer on the exchange, or raise GatewayError."""


@dataclass(slots=True)
class Service:
    """A route with what serves it: its endpoint and its share of the requests in flight.

    `endpoint` is None where another proxy forwards: the route is decided on the decision listener alone.
    """

    route: Route
    endpoint: Endpoint | None
    limit: Limit


@dataclass(slots=True)
class ActiveConfig:
    """One configuration, constructed. A request ends with the configuration with which it began."""

    settings: ServerSettings
    router: Router
    services: Mapping[str, Service]
    identifier: Identify
    authorizer: Authorize
    limit: Limit
    streams: Limit
    tokens: PlacedTokens | None = None
    """Where the gateway looks for tokens, if not only in `Authorization`."""
    in_flight: int = 0
    retired: Callable[[], None] | None = None
    """Called when the last request of a replaced configuration is over."""


R = TypeVar("R", bound=Request)


class Pipeline(Generic[R]):
    """The ASGI application of the public listener. `site` is replaced as a whole on reload.

    `closing`: say `Connection: close` on every answer (drain has begun). One event loop only.
    """

    def __init__(
        self,
        site: ActiveConfig,
        observer: Observer,
        build_request: Callable[[MutableMapping[str, Any], ServerSettings], R],
    ) -> None:
        self.site = site
        self.closing = False
        self._observer = observer
        self._build_request = build_request
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request (ASGI 3, scope types `http` and `websocket`)."""
        site = self.site
        record = AccessRecord(started_s=time.monotonic())
        request = self._build_request(scope, site.settings)
        span = self._observer.request_started(request, record)
        exchange = self._exchange(scope, request, record, span, receive, send)
        edge = exchange.edge
        site.in_flight += 1
        try:
            if self.closing:
                edge.close_after_response()
            await self._handle(exchange, site)
        except asyncio.CancelledError:
            record.client_left = edge.client_left
            if not edge.client_left:
                await self._refuse(exchange, site, GatewayError("draining", "The gateway is shutting down."))
        finally:
            self._observer.request_ended(record, span)
            site.in_flight -= 1
            if site.retired is not None and not site.in_flight:
                site.retired()

    def _exchange(
        self,
        scope: MutableMapping[str, Any],
        request: R,
        record: AccessRecord,
        span: Span,
        receive: Receive,
        send: Send,
    ) -> Exchange:
        return Exchange(request, record, span, scope["extensions"]["gateway.edge"], receive, send)

    def _service(self, exchange: Exchange, site: ActiveConfig) -> Service:
        """Step 1. A route of the decision listener only is not found here, even if other routes would match."""
        service = match(exchange, site)
        if service.endpoint is None:
            raise GatewayError("route_not_found")
        return service

    async def _handle(self, exchange: Exchange, site: ActiveConfig) -> None:
        """The error boundary: every exception from inside is answered here."""
        try:
            service = self._service(exchange, site)
            route = service.route
            if route.cors is not None and await self._cors(exchange, route):
                return
            place = Place(site.limit, service.limit, site.streams)
            exchange.become_stream = place.become_stream
            try:
                await self._decide_and_forward(exchange, site, service)
            finally:
                place.release()
        except GatewayError as error:
            await self._refuse(exchange, site, error)
        except Exception as error:  # noqa: BLE001 - the only place where a bug becomes an answer
            self._observer.bug("pipeline", error)
            await self._refuse(exchange, site, GatewayError("internal_error", "Something went wrong in the gateway."))

    async def _cors(self, exchange: Exchange, route: Route) -> bool:
        """Answer a preflight, or prepare the headers that every answer of this route gets."""
        answer = preflight(route, exchange.request)
        if answer is not None:
            await exchange.respond(*answer)
            return True
        if route.cors is not None:
            exchange.extra += response_headers(route.cors, exchange.request)
        if exchange.request.method not in route.methods:
            raise method_not_allowed(route)
        return False

    async def _decide_and_forward(self, exchange: Exchange, site: ActiveConfig, service: Service) -> None:
        route, request = service.route, exchange.request
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        deadline = Deadline.after(route.deadline_s, self._loop)
        subject: Subject | None = None
        verdict: Permit | Fallback | None = None
        try:
            with deadline.enforced():
                public = route.access[request.method].kind is AccessKind.PUBLIC
                if site.tokens is not None:
                    site.tokens.settle(request, route, public=public)
                if not public:
                    subject = await site.identifier.identify(request)
                verdict = await site.authorizer.authorize(
                    request, route, subject, deadline, exchange.record, exchange.span
                )
                if isinstance(verdict, Fallback):
                    await self._fall_back(verdict, exchange)
                else:
                    await self._carry_out(service, verdict, exchange, deadline)
        except DeadlineExceeded:
            if subject is None and route.access[request.method].kind is not AccessKind.PUBLIC:
                raise site.identifier.late() from None
            raise _too_late(verdict) from None

    def _carry_out(
        self, service: Service, permit: Permit, exchange: Exchange, deadline: Deadline
    ) -> Coroutine[Any, Any, None]:
        """Step 4."""
        if service.endpoint is None:
            raise GatewayError("internal_error", reason=f"route {service.route.id} forwards nothing")
        return service.endpoint(permit, exchange, deadline)

    async def _fall_back(self, fallback: Fallback, exchange: Exchange) -> None:
        """In place of step 4: the route's own response, the same for every kind of route."""
        exchange.extra.append((DEGRADED, iam_fallback_mark()))
        await respond_with(exchange, fallback.response)

    async def _refuse(self, exchange: Exchange, site: ActiveConfig, error: GatewayError) -> None:
        """Answer with the error, or abort a response that has begun."""
        record = exchange.record
        record.code = error.code
        record.reason = record.reason or error.reason
        if exchange.finished:
            return
        if exchange.started:
            exchange.abort()
            return
        await exchange.respond(*self._answer(error, exchange.request, site, record.route))

    def _answer(
        self, error: GatewayError, request: Request, site: ActiveConfig, route_id: str
    ) -> tuple[int, Headers, bytes]:
        """A refusal as a response: the route's error page for a browser, otherwise problem+json."""
        page = site.services[route_id].route.error_page if route_id else None
        if page is not None and self._wants_page(request):
            return render_page(error, page, request, server_name=site.settings.name)
        return render(error, server_name=site.settings.name, request_id=request.request_id, route=route_id)

    def _wants_page(self, request: Request) -> bool:
        return wants_page(request)


def match(exchange: Exchange, site: ActiveConfig) -> Service:
    """Step 1: what is requested? Raises `bad_request`, `route_not_found`, `method_not_allowed`."""
    request, record = exchange.request, exchange.record
    if site.tokens is not None:
        site.tokens.take_out(request)
    request.target = parse_target(request.target.raw)
    found = site.router.match(request.method, request.target, request.host)
    route, request.params = found.route, found.params
    record.route, record.path_template = route.id, route.path
    return site.services[route.id]


def _too_late(verdict: Permit | Fallback | None) -> GatewayError:
    """Before the permit, and with a subject, the deadline ended on IAM, after it on the upstream (docs/errors.md)."""
    if verdict is None:
        return GatewayError("iam_timeout", "Access could not be checked in time, so nothing was forwarded.")
    return GatewayError("deadline_exceeded", "The answer did not arrive within the deadline.")
