"""From a Configuration to an ActiveConfig: every object of the request path is made here, once.

Rules: all or nothing (a mistake raises before anything serves); nothing at request time is parsed or looked up by a
name that could have been resolved here; what has not changed is taken over from the composition before (`shared`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import httpx

from gateway.app.clients import ControlClients, control_client, iam_upstream, origin_of
from gateway.app.endpoints import Endpoints
from gateway.app.health import Checker, health_of
from gateway.app.listeners import client_material, material
from gateway.app.pauses import Steps, at_once, each, one_by_one
from gateway.app.shared import Parts, decider_of, same_decider, share_one
from gateway.authorize import Authorizer, DecisionCache, plans_by_route, questions_at_a_time
from gateway.authorize.snapshot import Snapshot
from gateway.evidence.log import DecisionLog
from gateway.evidence.shadow import Shadow, ShadowObserver, Witnesses
from gateway.forward.copies import Copies
from gateway.forward.health import SystemsHealth
from gateway.forward.streams import Streams
from gateway.headers import HeaderRules
from gateway.iam.build import build_iam
from gateway.iam.client import DecisionPoint
from gateway.identity import (
    Helpers,
    Identifier,
    PlacedTokens,
    Verifier,
    build_identifier,
    build_tokens,
    build_verifier,
)
from gateway.model.permit import Permit
from gateway.model.route import AggregateAction, BreakerPolicy, IamFailureMode, NavigationAction, ProxyAction, Route
from gateway.model.settings import (
    CacheSettings,
    ClientTls,
    Configuration,
    HeaderIdentity,
    IamApi,
    IamSettings,
    Identity,
    IntrospectionIdentity,
    JwtIdentity,
    JwtIssuer,
    OAuth2ClientCredentials,
    UpstreamAuth,
    UpstreamSettings,
)
from gateway.pipeline import ActiveConfig, Service
from gateway.resilience.admission import ConcurrencyLimit
from gateway.resilience.breaker import OPEN, Breaker
from gateway.resilience.deadline import Deadline
from gateway.routing import Router
from gateway.telemetry.observer import Observer
from gateway.upstream import Member, Upstream, UpstreamTransport, dialer_of
from gateway.upstream.auth import Credentials, build_credentials
from gateway.upstream.connect import Origin
from gateway.witness import Witness

IAM: Final = "iam"
SHADOW: Final = "iam_shadow"


@dataclass(slots=True)
class Composition:
    """One configuration, constructed, with what operators look at."""

    configuration: Configuration
    parts: Parts
    site: ActiveConfig
    upstreams: dict[str, Upstream]
    breakers: dict[str, Breaker]
    iam: DecisionPoint
    cache: DecisionCache
    copies: Copies
    streams: Streams
    health: SystemsHealth
    snapshot: Snapshot | None
    decision_log: DecisionLog | None


def compose(configuration: Configuration, observer: Observer, parts: Parts) -> Composition:
    """The composition of a configuration. Raises ValueError or OSError for what cannot be constructed.

    `parts` holds what was made, also if it raises: then it is the caller's to release.
    """
    return at_once(_Composer(configuration, observer, parts).steps())


async def compose_beside(configuration: Configuration, observer: Observer, parts: Parts) -> Composition:
    """The same while another composition serves requests. It works in slices, so that requests are not delayed."""
    return await one_by_one(_Composer(configuration, observer, parts).steps())


class _Composer:
    def __init__(self, configuration: Configuration, observer: Observer, parts: Parts) -> None:
        self._configuration = configuration
        self._observer = observer
        self._parts = parts
        self._breakers: dict[str, Breaker] = {}

    def steps(self) -> Steps[Composition]:
        configuration, server = self._configuration, self._configuration.server
        upstreams = {name: self._upstream(settings) for name, settings in configuration.upstreams.items()}
        iam = self._iam()
        cache = self._cache()
        log = self._decision_log()
        witness = self._witness(log)
        plans = yield partial(plans_by_route, configuration.routes)
        authorizer = Authorizer(
            iam,
            configuration.routes,
            plans=plans,
            witness=witness,
            local=self._local(iam),
            cache=cache,
            observer=self._observer,
            at_a_time=questions_at_a_time(configuration.iam.max_queue, configuration.iam.batch_max_size),
        )
        streams = self._streams(authorizer)
        copies = self._parts.take("copies", None, Copies)
        health = health_of(configuration, upstreams, iam, self._breakers_of)
        endpoints = Endpoints(
            configuration=configuration,
            parts=self._parts,
            upstreams=upstreams,
            breaker=self.breaker,
            authorizer=authorizer,
            copies=copies,
            streams=streams,
            health=health,
            observer=self._observer,
            rules=HeaderRules(server, _identity_field(configuration.identity)),
            witness=witness,
        )

        def service(route: Route) -> Service:
            return Service(route, endpoints.of(route), self._limit(("route", route.id), route.max_concurrency))

        services = yield from each(configuration.routes, service)
        router = yield partial(Router, configuration.routes)
        site = ActiveConfig(
            settings=server,
            router=router,
            services={service.route.id: service for service in services},
            identifier=self._identifier(),
            tokens=self._placed_tokens(),
            authorizer=authorizer,
            limit=self._limit("whole", server.max_concurrency),
            streams=self._limit("streams", server.max_streams),
        )
        return Composition(
            configuration,
            self._parts,
            site,
            upstreams,
            self._breakers,
            iam,
            cache,
            copies,
            streams,
            health,
            self._snapshot(cache),
            log,
        )

    def breaker(self, name: str, kind: str, policy: BreakerPolicy, addresses: Iterable[str]) -> Breaker:
        """The breaker of that name before these addresses: its state survives a reload, its policy does not.

        What an operator forced is said of the name, so it stays in force at another address too.
        """
        key, before = ("breaker", name), self._parts.before(("breaker", name))
        breaker = self._parts.take(
            key,
            (kind, frozenset(addresses)),
            lambda: Breaker(name, kind, policy, observer=self._observer),
            same=lambda old, new: old[0] == new[0] and share_one(old[1], new[1]),
        )
        if before is not None and before is not breaker and before.forced:
            self._parts.when_settled(breaker.force_open if before.forced == OPEN else breaker.force_close)
        self._parts.when_settled(lambda: breaker.update(policy))
        self._parts.when_settled(lambda: self._observer.breaker_added(name, kind, breaker.state))
        self._breakers[name] = breaker
        return breaker

    def _breakers_of(self, system: str) -> list[Breaker]:
        """The breakers that stand before a system: IAM's own, or those of every pair with that upstream."""
        return [self._breakers[name] for name in _names_of(self._configuration, system) if name in self._breakers]

    def _upstream(self, settings: UpstreamSettings) -> Upstream:
        """Its origins outlive it: connections and what is known of them depend on name, address and TLS alone."""
        made_from = (settings, client_material(settings.tls))
        members = tuple(self._member(settings, url) for url in settings.urls)
        key = ("upstream", settings.name)
        upstream = self._parts.take(key, (made_from, members), lambda: Upstream(settings, members=members))
        if settings.health.path is not None and len(members) > 1:
            key = ("checker", settings.name)
            self._parts.take(key, made_from, lambda: Checker(upstream, settings.health), lambda checker: checker.aclose)
        else:
            self._parts.when_settled(lambda: _believe_well(members))
        return upstream

    def _member(self, settings: UpstreamSettings, url: str, known_as: str = "") -> Member:
        """The origin `url`; `known_as`, if it has a name of its own among those of this upstream."""
        secure = any(each.startswith("https:") for each in settings.urls)
        tls = (settings.tls, client_material(settings.tls)) if secure else None
        dialer = self._parts.take(("dialer", settings.name), tls, lambda: dialer_of(settings))
        member = self._parts.take(
            ("origin", settings.name, known_as or url),
            tls if url.startswith("https:") else None,
            lambda: Member(Origin.parse(url), dialer, settings),
            lambda member: member.aclose,
        )
        self._parts.when_settled(lambda: member.update(settings))
        return member

    def _limit(self, key: Hashable, limit: int) -> ConcurrencyLimit:
        kept = self._parts.take(("limit", key), None, lambda: ConcurrencyLimit(limit))
        self._parts.when_settled(lambda: setattr(kept, "limit", limit))
        return kept

    def _iam(self) -> DecisionPoint:
        settings = self._configuration.iam
        if settings.api is IamApi.EMBEDDED:
            return self._embedded("iam")
        return self._asked(IAM, IAM, settings, self._observer)

    def _asked(self, name: str, kind: str, settings: IamSettings, observer: Observer) -> DecisionPoint:
        """An IAM that is asked over the network: its urls, one breaker before all of them, our credentials there."""
        each = [iam_upstream(settings, url, name) for url in settings.urls]
        members = tuple(self._member(one, one.urls[0], url) for one, url in zip(each, settings.urls, strict=True))
        breaker = self.breaker(name, kind, settings.breaker, settings.urls)
        credentials = self._credentials(name, settings.auth, ClientTls())
        return self._parts.take(
            name,
            (replace(settings, cache=CacheSettings()), members, breaker, credentials),
            lambda: build_iam(
                settings,
                http=[
                    UpstreamTransport(Upstream(one, members=(member,)))
                    for one, member in zip(each, members, strict=True)
                ],
                breaker=breaker,
                observer=observer,
                standings=members,
                credentials=credentials,
            ),
            lambda iam: iam.aclose,
        )

    def _local(self, iam: DecisionPoint) -> DecisionPoint | None:
        """The embedded policies as a stand-in, where a route degrades to them."""
        rules = (rule for route in self._configuration.routes for rule in route.on_iam_failure.values())
        if all(rule.mode is not IamFailureMode.LOCAL for rule in rules):
            return None
        return iam if self._configuration.iam.api is IamApi.EMBEDDED else self._embedded("local")

    def _embedded(self, source: str) -> DecisionPoint:
        from gateway.pdp.point import EmbeddedDecisionPoint  # Cedar, only where it decides

        folder = self._configuration.access_policies
        if folder is None:
            raise ValueError(f"{self._configuration.file}: there is no policies/access for the embedded policies")
        return self._parts.take(
            ("embedded", source),
            self._configuration.access_texts,
            lambda: EmbeddedDecisionPoint.load(folder, source=source),
        )

    def _cache(self) -> DecisionCache:
        settings = self._configuration.iam.cache
        decider = decider_of(self._configuration)
        cache = self._parts.take("cache", decider, lambda: DecisionCache(settings), same=same_decider)
        self._parts.when_settled(lambda: cache.update(settings))
        return cache

    def _snapshot(self, cache: DecisionCache) -> Snapshot | None:
        settings = self._configuration.iam.cache.snapshot
        if settings is None:
            return None
        decider = decider_of(self._configuration)
        base = repr((decider.api, decider.paths, decider.policies, decider.headers))
        snapshot = self._parts.take("snapshot", settings, lambda: Snapshot(settings), lambda kept: kept.aclose)
        self._parts.when_settled(lambda: snapshot.serve(cache, base, decider.urls))
        return snapshot

    def _decision_log(self) -> DecisionLog | None:
        settings = self._configuration.server.decision_log
        if settings is None:
            return None
        return self._parts.take(
            "decision log", settings, lambda: DecisionLog(settings, self._observer), lambda log: log.aclose
        )

    def _witness(self, log: DecisionLog | None) -> Witness | None:
        """The receivers of decisions: the log, the second IAM, both or none."""
        shadow = self._shadow(log)
        if log is None or shadow is None:
            return log or shadow
        return self._parts.take("witnesses", (log, shadow), lambda: Witnesses(log, shadow))

    def _shadow(self, log: DecisionLog | None) -> Shadow | None:
        settings = self._configuration.iam_shadow
        if settings is None:
            return None
        point = self._shadow_iam(settings.iam)
        return self._parts.take(
            "shadow",
            (settings, point, log),
            lambda: Shadow(settings, point, self._observer, log),
            lambda shadow: shadow.aclose,
        )

    def _shadow_iam(self, settings: IamSettings) -> DecisionPoint:
        """The second IAM. It shares nothing with the first one."""
        if settings.api is IamApi.EMBEDDED:
            return self._embedded(SHADOW)
        return self._asked(SHADOW, "shadow", settings, ShadowObserver(self._observer))

    def _identifier(self) -> Identifier:
        """Checks tokens again after every change; keys and verified signatures stay with the verifiers."""
        settings, server = self._configuration.identity, self._configuration.server
        helpers = Helpers()
        if isinstance(settings, JwtIdentity):
            helpers = Helpers(verifiers=[self._verifier(issuer) for issuer in settings.issuers])
        elif isinstance(settings, IntrospectionIdentity):
            http = self._control_client(settings.url, settings.tls)
            helpers = Helpers(http=http, credentials=self._credentials("introspection", settings.auth, settings.tls))
        made_from = (settings, tuple(helpers.verifiers), helpers.http, server.max_token, server.name)
        return self._parts.take(
            "identifier",
            made_from,
            lambda: build_identifier(settings, helpers, max_token=server.max_token, realm=server.name),
            lambda identifier: identifier.aclose,
        )

    def _placed_tokens(self) -> PlacedTokens | None:
        server = self._configuration.server
        tokens = build_tokens(self._configuration.identity, max_token=server.max_token, realm=server.name)
        return tokens if isinstance(tokens, PlacedTokens) else None

    def _verifier(self, issuer: JwtIssuer) -> Verifier:
        """Kept by issuer, where the keys come from, and algorithms."""
        made_from = (
            (issuer.jwks_url, issuer.jwks_file, frozenset(issuer.algorithms)),
            (issuer.tls, material(issuer.jwks_file), client_material(issuer.tls)),
        )
        key = ("keys", issuer.issuer)
        clients = self._parts.take(
            ("key clients", issuer.issuer),
            made_from,
            lambda: ControlClients(issuer.tls),
            lambda clients: clients.aclose,
        )
        verifier = self._parts.take(
            key, made_from, lambda: build_verifier(issuer, clients), lambda verifier: verifier.aclose
        )
        self._parts.when_settled(lambda: verifier.keys.update(issuer.jwks_refresh_s))
        return verifier

    def _credentials(self, whose: str, auth: UpstreamAuth | None, tls: ClientTls) -> Credentials | None:
        """The gateway's own, where it asks somebody for itself. `tls`: also towards a token server."""
        if auth is None:
            return None
        http, files = None, client_material(tls)
        if isinstance(auth, OAuth2ClientCredentials):
            http, files = self._control_client(auth.token_url, tls), files + material(auth.key_file)
        return self._parts.take(
            ("own credentials", whose),
            (auth, tls, files),
            lambda: build_credentials(auth, http=http),
            lambda credentials: credentials.aclose,
        )

    def _control_client(self, url: str, tls: ClientTls) -> httpx.AsyncClient:
        return self._parts.take(
            ("control", origin_of(url), tls),
            client_material(tls),
            lambda: control_client(url, tls),
            lambda client: client.aclose,
        )

    def _streams(self, authorizer: Authorizer) -> Streams:
        async def recheck(permit: Permit) -> None:
            await authorizer.recheck(permit, Deadline.after(permit.route.deadline_s))

        return Streams(recheck=recheck)


def _names_of(configuration: Configuration, system: str) -> list[str]:
    """Names of the breakers before `iam` or an upstream (by route, by `route.part`)."""
    if system == IAM:
        return [IAM]
    names = []
    for route in configuration.routes:
        match route.action:
            case ProxyAction(upstream=upstream) | NavigationAction(upstream=upstream) if upstream == system:
                names.append(route.id)
            case AggregateAction(parts=parts):
                names += [f"{route.id}.{part.name}" for part in parts if part.upstream == system]
    return names


def _believe_well(members: Iterable[Member]) -> None:
    """These origins have no health check any more, so nothing else would mark them as healthy again."""
    for member in members:
        member.ill = False


def _identity_field(identity: Identity) -> bytes | None:
    return identity.name if isinstance(identity, HeaderIdentity) else None
