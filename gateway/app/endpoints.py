"""From a route's action to the endpoint that carries out its permits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from gateway.app.clients import control_client, origin_of
from gateway.app.health import probe_of
from gateway.app.listeners import client_material, material
from gateway.app.shared import Parts, Places
from gateway.authorize import Authorizer
from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.forward.aggregate import AggregateEndpoint, Gatherer
from gateway.forward.bulk import BulkEndpoint
from gateway.forward.copies import Copies, place_of
from gateway.forward.heads import Redirects
from gateway.forward.health import HealthEndpoint, SystemsHealth, Unavailable
from gateway.forward.navigation import NavigationEndpoint
from gateway.forward.outage import LastGood
from gateway.forward.parts import PartCaller
from gateway.forward.permissions import PermissionsEndpoint
from gateway.forward.proxy import ProxyEndpoint
from gateway.forward.streams import Streams
from gateway.forward.websocket import WebSocketEndpoint, max_message
from gateway.headers import HeaderRules
from gateway.model.permit import Permit
from gateway.model.route import (
    AggregateAction,
    BreakerPolicy,
    DecideAction,
    HealthAction,
    NavigationAction,
    PermissionsAction,
    ProxyAction,
    Resilience,
    Route,
    UpstreamFailureRule,
    bulk_of,
)
from gateway.model.settings import BasicAuth, BearerAuth, Configuration, OAuth2ClientCredentials, UpstreamAuth
from gateway.pipeline import Endpoint
from gateway.resilience.breaker import Breaker
from gateway.resilience.deadline import Deadline
from gateway.resilience.probe import probe_loop
from gateway.resilience.retry import RetryBudget
from gateway.telemetry.observer import Observer
from gateway.upstream import Upstream
from gateway.upstream.answer import STREAMS, StreamTypes
from gateway.upstream.auth import Credentials, build_credentials
from gateway.upstream.guarded import Caller, GuardedUpstream
from gateway.upstream.websocket import WebSocketDialer
from gateway.witness import Witness

# `circuit_breaker.probe` of a route: while its circuit is open the gateway asks the upstream's health by itself.
#
# What is asked is what `/health/systems` asks: the `health` path, else a TCP connect, within `health.timeout`.


class Prober:
    """One breaker's background task. Constructed in the event loop; ends with `aclose`."""

    def __init__(
        self, breaker: Breaker, ask: Callable[[], Awaitable[None]], *, interval_s: float, timeout_s: float
    ) -> None:
        self._ask = ask
        self._timeout_s = timeout_s
        self._task = asyncio.get_running_loop().create_task(probe_loop(breaker, self._attempt, interval_s))

    async def aclose(self) -> None:
        """End the task."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _attempt(self) -> str:
        """The failure's code, or nothing."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._ask()
        except TimeoutError:
            return "upstream_timeout"
        except Unavailable:
            return "upstream_unavailable"
        except GatewayError as error:
            return error.code
        return ""


UPSTREAM = "upstream"


class HttpOrWebSocket:
    """A proxied route serves both, whichever the request is."""

    def __init__(self, http: Endpoint, websocket: Endpoint) -> None:
        self._http = http
        self._websocket = websocket

    def __call__(self, permit: Permit, exchange: Exchange, deadline: Deadline) -> Coroutine[Any, Any, None]:
        """Carry out the permit as what it is."""
        endpoint = self._websocket if permit.request.websocket else self._http
        return endpoint(permit, exchange, deadline)


@dataclass(slots=True, kw_only=True)
class Endpoints:
    """Builds endpoints for the routes of one configuration."""

    configuration: Configuration
    parts: Parts
    upstreams: dict[str, Upstream]
    breaker: Callable[[str, str, BreakerPolicy, Iterable[str]], Breaker]
    authorizer: Authorizer
    copies: Copies
    streams: Streams
    health: SystemsHealth
    observer: Observer
    rules: HeaderRules
    witness: Witness | None = None

    def of(self, route: Route) -> Endpoint | None:
        """The endpoint of one route; None where another proxy forwards."""
        match route.action:
            case ProxyAction() as action:
                return self._proxy(route, action)
            case NavigationAction() as action:
                return self._navigation(route, action)
            case PermissionsAction():
                return PermissionsEndpoint(
                    route, decide=self.authorizer.decide, observer=self.observer, witness=self.witness
                )
            case DecideAction():
                return None
            case HealthAction():
                return HealthEndpoint(self.health)
            case AggregateAction() as action:
                return self._aggregate(route, action)

    def guarded(
        self,
        name: str,
        upstream: str,
        resilience: Resilience,
        *,
        told_as: str = "",
        caller: Caller | None = None,
        streams: StreamTypes = STREAMS,
    ) -> GuardedUpstream:
        """One (route or part, upstream) pair, with the breaker of that name.

        `told_as`: its name in logs of retries, if it is another. `caller`: how else to make an attempt. `streams`:
        which answers go on without an end.
        """
        breaker = self.breaker(name, UPSTREAM, resilience.breaker, self.configuration.upstreams[upstream].urls)
        self._probe(name, upstream, breaker, resilience.breaker.probe_s)
        return GuardedUpstream(
            name=told_as or name,
            upstream=caller or self.upstreams[upstream],
            resilience=resilience,
            breaker=breaker,
            budget=self.parts.take(("budget", name), None, RetryBudget),
            observer=self.observer,
            auth=self._credentials(upstream),
            streams=streams,
        )

    def _probe(self, name: str, upstream: str, breaker: Breaker, interval_s: float | None) -> None:
        """Try by ourselves while the circuit is open, where the policy says so, or a health check can tell."""
        settings = self.configuration.upstreams[upstream]
        if interval_s is None and settings.health.path is not None:
            interval_s = settings.health.interval_s
        if not interval_s:
            return
        ask = probe_of(self.upstreams[upstream], settings.health)
        timeout_s = settings.health.timeout_s
        self.parts.take(
            ("prober", name),
            (interval_s, settings, client_material(settings.tls), breaker),
            lambda: Prober(breaker, ask, interval_s=interval_s, timeout_s=timeout_s),
            lambda prober: prober.aclose,
        )

    def _proxy(self, route: Route, action: ProxyAction) -> Endpoint:
        upstream = self.upstreams[action.upstream]
        http = ProxyEndpoint(
            route,
            action,
            self.guarded(route.id, action.upstream, route.resilience, streams=StreamTypes(route.stream_content_types)),
            authority=upstream.authority,
            rules=self.rules,
            copies=self.copies,
            streams=self.streams,
            observer=self.observer,
            redirects=self._redirects(action),
            place=self._place(action.upstream),
        )
        dialer = WebSocketDialer(upstream, max_message(route))
        websocket = WebSocketEndpoint(
            route,
            action,
            self.guarded(route.id, action.upstream, route.resilience, caller=dialer),
            authority=upstream.authority,
            rules=self.rules,
            streams=self.streams,
        )
        return HttpOrWebSocket(http, websocket)

    def _navigation(self, route: Route, action: NavigationAction) -> Endpoint:
        return NavigationEndpoint(
            route,
            decide=self.authorizer.decide,
            upstream=self.guarded(route.id, action.upstream, route.resilience),
            authority=self.upstreams[action.upstream].authority,
            rules=self.rules,
            last_good=self._last_good(route.id, action.upstream, route.on_upstream_failure.get("GET")),
            observer=self.observer,
            witness=self.witness,
        )

    def _aggregate(self, route: Route, action: AggregateAction) -> Endpoint:
        """The bulk path is a route of its own with the same action, and shares the breakers of the single one."""
        bulk = bulk_of(route)
        single = route.id if bulk is None else route.id.removesuffix(".bulk")
        callers = [
            PartCaller(
                part,
                upstream=self.guarded(f"{single}.{part.name}", part.upstream, part.resilience, told_as=part.name),
                authority=self.upstreams[part.upstream].authority,
                rules=self.rules,
                last_good=self._last_good(f"{single}.{part.name}", part.upstream, part.on_upstream_failure),
            )
            for part in action.parts
        ]
        gatherer = Gatherer(route, callers)
        if bulk is not None:
            return BulkEndpoint(
                route, bulk, gatherer, decide_items=self.authorizer.decide_items, observer=self.observer
            )
        return AggregateEndpoint(route, gatherer, self.observer)

    def _last_good(self, name: str, upstream: str, rule: UpstreamFailureRule | None) -> LastGood:
        own = self.configuration.upstreams[upstream].auth is not None
        return LastGood(self.copies, place_of(name, upstream, self._place(upstream)), rule, own=own)

    def _redirects(self, action: ProxyAction) -> Redirects | None:
        if not action.rewrite_redirects:
            return None
        authorities = [origin.authority for origin in self.upstreams[action.upstream].origins]
        prefix = (action.strip_prefix or b"").rstrip(b"/")
        return Redirects(authorities, prefix, preserves_host=action.preserve_host)

    def _place(self, upstream: str) -> str:
        """What copies of this upstream's answers depend on: its addresses, and the gateway's own credentials there."""
        settings = self.configuration.upstreams[upstream]
        places: Places = self.parts.take(("places", upstream), None, Places)
        place = self.parts.take(("place", upstream), settings.urls, lambda: places.of(settings.urls))
        self.parts.when_settled(lambda: places.serve(settings.urls, place))
        return f"{place} {_credentials_mark(settings.auth)}"

    def _credentials(self, upstream: str) -> Credentials | None:
        auth = self.configuration.upstreams[upstream].auth
        if auth is None:
            return None
        http = None
        if isinstance(auth, OAuth2ClientCredentials):
            http = self.parts.take(
                ("control", origin_of(auth.token_url)),
                None,
                lambda: control_client(auth.token_url),
                lambda client: client.aclose,
            )
        return self.parts.take(
            ("credentials", upstream),
            (auth, material(auth.key_file) if isinstance(auth, OAuth2ClientCredentials) else ()),
            lambda: build_credentials(auth, http=http),
            lambda credentials: credentials.aclose,
        )


def _credentials_mark(auth: UpstreamAuth | None) -> str:
    """A hash of the gateway's own credentials at an upstream; where they are fetched, of whose they are."""
    match auth:
        case None:
            return ""
        case BearerAuth():
            told = auth.token
        case BasicAuth():
            told = f"{auth.username}:{auth.password}"
        case OAuth2ClientCredentials():
            told = repr(auth)  # without its secret
    return sha256(told.encode("utf-8", "surrogatepass")).hexdigest()
