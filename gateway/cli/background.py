"""What stands behind a decision, for `gateway explain`: where identity comes from, the cache, and what stale would do.

By itself this is what the configuration says. With the admin listener's status it is also what the gateway has now.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gateway.config.values import format_duration
from gateway.model.route import Access, AccessKind, IamFailureMode
from gateway.model.settings import (
    HeaderIdentity,
    IntrospectionIdentity,
    JwtIdentity,
    JwtIssuer,
    OpaqueIdentity,
    TokenIn,
    TokenPlace,
)

if TYPE_CHECKING:
    from gateway.model.route import IamFailureRule, Route
    from gateway.model.settings import CacheSettings, Configuration, Identity

_PLACES = {
    TokenIn.HEADER: "Authorization: Bearer",
    TokenIn.COOKIE: "the cookie",
    TokenIn.QUERY: "the query parameter",
    TokenIn.WEBSOCKET_PROTOCOL: "Sec-WebSocket-Protocol",
}


def background(configuration: Configuration, route: Route, method: str) -> Iterator[str]:
    """Lines about identity, cache and stale, for one method of a route."""
    access = route.access[method]
    yield f"identity  {_identity(configuration.identity, access)}"
    if access.kind is AccessKind.CHECKS:
        cache = configuration.iam.cache
        yield f"cache     {_cache(cache)}"
        yield f"stale     {_stale(route.on_iam_failure[method], cache)}"


def now(status: dict[str, Any], kept_s: float) -> Iterator[str]:
    """Lines about a running gateway. KeyError, TypeError: this is no status."""
    iam, entries = status["iam"], int(status["cache"]["entries"])
    circuit = f", IAM's circuit is {iam['state']}" if "state" in iam else ""
    kept = "1 decision of all callers is" if entries == 1 else f"{entries} decisions of all callers are"
    yield f"now       {kept} kept{circuit}"
    if entries == 0:
        yield f"          so a stale permit stands in for nobody yet; each is kept for {format_duration(kept_s)}"


def _identity(identity: Identity, access: Access) -> str:
    if access.kind is AccessKind.PUBLIC:
        return "nobody is asked who they are: the route is public"
    match identity:
        case HeaderIdentity(name=name):
            return f"the header {name.decode('ascii')}, believed only from server.trusted_proxies"
        case OpaqueIdentity(places=places):
            return f"the token in {_places(places)} is the subject; IAM says whose it is"
        case IntrospectionIdentity(url=url, cache_s=cache_s, places=places):
            return (
                f"the token in {_places(places)}; {url} says whose it is (asked again after {format_duration(cache_s)})"
            )
        case JwtIdentity(issuers=issuers, places=places):
            return f"the JWT in {_places(places)}, of {'; or of '.join(map(_issuer, issuers))}"


def _issuer(issuer: JwtIssuer) -> str:
    found = issuer.jwks_file or issuer.jwks_url or "OpenID discovery"
    return f"{issuer.issuer} for {' or '.join(issuer.audience)}, {' or '.join(issuer.algorithms)}, keys from {found}"


def _places(places: tuple[TokenPlace, ...]) -> str:
    return " or ".join(f"{_PLACES[place.kind]} {place.name}".rstrip() for place in places)


def _cache(cache: CacheSettings) -> str:
    permits = f"a permit answers for {format_duration(cache.ttl_s)}" if cache.ttl_s else "every request asks IAM"
    denials = f", a denial for {format_duration(cache.negative_ttl_s)}" if cache.negative_ttl_s else ""
    return f"{permits}{denials}; permits are remembered for {format_duration(cache.max_stale_s)}"


def _stale(rule: IamFailureRule, cache: CacheSettings) -> str:
    if rule.mode is IamFailureMode.STALE:
        known = f"whoever was permitted this within the last {format_duration(rule.max_stale_s)}"
        return f"while IAM can't answer, {known} goes on; everybody else gets 503"
    return (
        f"not used here ({rule.mode.value}); with degrade: stale, permits of the last "
        f"{format_duration(cache.max_stale_s)} could stand in"
    )
