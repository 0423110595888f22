"""What a proxy that forwards by itself has to do for one routes.yaml: paths as patterns, fields not to believe."""

from __future__ import annotations

import dataclasses
import ipaddress
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.headers import SPOOFABLE, SPOOFABLE_PREFIXES
from gateway.model.route import DecideAction, IamFailureMode, ProxyAction, Route, Segment, UpstreamFailureMode
from gateway.model.settings import (
    Address,
    ClientTls,
    Configuration,
    Identity,
    IntrospectionIdentity,
    JwtIdentity,
    ServerSettings,
    TokenIn,
    UpstreamSettings,
)

# Request fields that are believed only from a gateway or its proxy: taken off before anything else happens.

_TRACE: Final = ("traceparent", "tracestate", "baggage")


def prefixes(server: ServerSettings) -> list[str]:
    """What such fields begin with, in lower case."""
    more = [name[:-1] for name in server.strip_request_headers if name.endswith(b"*")]
    return [name.decode("ascii").lower() for name in (*SPOOFABLE_PREFIXES, *sorted(more))]


def names(server: ServerSettings) -> list[str]:
    """Their names, where they are not known by how they begin, in lower case."""
    more = [name for name in server.strip_request_headers if not name.endswith(b"*")]
    return [*(name.decode("ascii").lower() for name in sorted({*SPOOFABLE, *more})), *_TRACE]


def spellings(name: str) -> list[str]:
    """The name with `-`, `_` and `.` at every place where one of them stands: CGI-like servers read them alike."""
    first, *rest = name.replace("_", "-").replace(".", "-").split("-")
    ways = product("-_.", repeat=len(rest))
    return [first + "".join(map("".join, zip(marks, rest, strict=True))) for marks in ways]


def shown(name: str) -> str:
    """As people write it."""
    return "-".join(part.capitalize() for part in name.split("-"))


# Paths of routes as regular expressions that PCRE (nginx) and RE2 (Envoy, Caddy, Traefik) read alike.


def path_pattern(segments: tuple[Segment, ...]) -> str:
    """The whole path of a route, decoded; one trailing slash is as none."""
    if segments and segments[-1].rest:
        return f"^{_joined(segments[:-1])}(/.*)?$"
    return f"^{_joined(segments)}/?$"


def specificity(segments: tuple[Segment, ...]) -> list[int]:
    """Sorts as routing does: a literal before `{x}` before `*`, left to right; the end of a path before its `*`."""
    return [0 if segment.literal is not None else 2 if segment.rest else 1 for segment in segments] + [-1]


def field_pattern(starts: Iterable[str], names: Iterable[str]) -> str:
    """Field names in any case, also with `_` and `.` for `-`: what begins with one of `starts`, and whole names."""
    begun, whole = "|".join(map(_spelt, starts)), "|".join(map(_spelt, names))
    return f"(?i)^(?:(?:{begun}).*|{whole})$"


def _spelt(name: str) -> str:
    return "[-_.]".join(map(exactly, name.split("-")))


def _joined(segments: tuple[Segment, ...]) -> str:
    return "".join("/" + ("[^/]+" if segment.literal is None else exactly(segment.literal)) for segment in segments)


def exactly(text: str) -> str:
    """No character is left that a regular expression or a quoted string of a configuration could read as its own."""
    return "".join(
        char if char.isalnum() or char in "-_~/" or not char.isascii() else f"\\x{ord(char):02x}" for char in text
    )


# Rules. A request is asked about before it goes anywhere, unless it goes to the gateway's public listener, which
# decides by itself: so a path that a proxy reads differently from the gateway can never become a way around a
# decision. To the gateway goes what only it can do: its own documents, and routes whose upstream must not see what
# the caller sent. What no route matches is asked about too, so that the gateway answers 400, 404 and 405.

GATEWAY: Final = "gateway"
BACKEND: Final = "backend"
NO_ROUTE: Final = "-"
"""In `X-Gateway-Route`: the proxy knows no route for this. No route has this id."""
SLACK_S: Final = 1.0
_EARLIER_S: Final = 5.0


class NotExportable(Exception):
    """This configuration has no like in that proxy: one line for the user."""


@dataclass(frozen=True, slots=True)
class Front:
    """Where the proxy listens, and where routes without upstream go."""

    listen: Address
    backend: Address | None


@dataclass(frozen=True, slots=True)
class Destination:
    """One or several origins behind a name. `tls` None: plain HTTP. `authority`: their `Host`, None: the caller's."""

    name: str
    origins: tuple[Address, ...]
    tls: ClientTls | None = None
    authority: str | None = None
    max_connections: int = 256


@dataclass(frozen=True, slots=True)
class Way:
    """A route in the proxy. `pattern` matches its decoded path. `asked`: only after a decision.

    `strip`: how many leading segments are taken off, `prefix` what they are. `silence_s`: the longest silence.
    """

    route: Route
    pattern: str
    asked: bool
    destination: Destination
    strip: int = 0
    prefix: str = ""
    silence_s: float = 60.0

    @property
    def authority(self) -> str | None:
        """The `Host` to send, None: the caller's."""
        kept = isinstance(self.route.action, ProxyAction) and self.route.action.preserve_host
        return None if kept else self.destination.authority


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it. `ways` in order of precedence: the first whose path and host match is the route.

    `told`: fields, in lower case, that a decision says who asks with. `remarks`: what no proxy carries, one line each.
    """

    configuration: Configuration
    listen: Address
    decisions: Address
    gateway: Destination
    ways: tuple[Way, ...]
    destinations: tuple[Destination, ...]
    told: tuple[str, ...]
    decision_timeout_s: float
    remarks: tuple[str, ...]

    @property
    def hosts(self) -> list[str]:
        """Every host that a route names."""
        return sorted({way.route.host for way in self.ways if way.route.host is not None})

    @property
    def kept_idle_s(self) -> float:
        """How long a connection to the gateway is kept: shorter than the gateway does, so that none just ends."""
        idle_s = self.configuration.server.idle_timeout_s
        return max(idle_s - _EARLIER_S, idle_s / 2)


def plan(configuration: Configuration, front: Front) -> Plan:
    """Raises NotExportable."""
    server = configuration.server
    if server.decisions is None:
        raise NotExportable("server.decisions: there is no decision listener, so there is nothing to ask")
    if server.tls is not None and server.tls.client_ca_file is not None:
        raise NotExportable(
            "server.tls.client_ca_file: the gateway would see the proxy's certificate, not the caller's"
        )
    without = [route.id for route in configuration.routes if isinstance(route.action, DecideAction)]
    if without and front.backend is None:
        raise NotExportable(f"--backend is needed: no upstream is named by {', '.join(without)}")
    tls = None if server.tls is None else ClientTls(verify=False)
    gateway = Destination(GATEWAY, (reached_at(server.listen),), tls, None, server.max_connections)
    ordered = sorted(configuration.routes, key=lambda route: (specificity(route.segments), route.host is None))
    ways = tuple(_way(route, configuration, front, gateway) for route in ordered)
    used = {way.destination.name: way.destination for way in ways}
    return Plan(
        configuration=configuration,
        listen=front.listen,
        decisions=reached_at(server.decisions),
        gateway=gateway,
        ways=ways,
        destinations=tuple({GATEWAY: gateway, **used}.values()),
        told=("x-auth-subject", *_claim_fields(configuration.identity), "x-gateway-degraded", "x-gateway-route"),
        decision_timeout_s=max((route.deadline_s for route in configuration.routes), default=10.0) + SLACK_S,
        remarks=tuple(_remarks(configuration, ways)),
    )


def warnings(plan: Plan) -> list[str]:
    """What else has to be so for the two to work together."""
    host, networks = plan.decisions.host, plan.configuration.server.trusted_proxies
    try:
        own = ipaddress.ip_address(host)
    except ValueError:
        return []
    if any(own in network for network in networks):
        return []
    return [f"server.trusted_proxies does not have {host}: a proxy on this machine would be refused"]


def trusted_bundle(tls: ClientTls) -> str:
    """The file of the authorities that an upstream's certificate is verified with: its own, or the system's."""
    if tls.ca_file is not None:
        return str(tls.ca_file)
    found = ssl.get_default_verify_paths()
    places = (found.cafile, found.openssl_cafile, *_BUNDLES)
    return next((place for place in places if place and Path(place).is_file()), _BUNDLES[0])


_BUNDLES: Final = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def reached_at(address: Address) -> Address:
    """From the same machine."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return dataclasses.replace(address, host=everywhere.get(address.host, address.host))


def only_the_gateway(route: Route, configuration: Configuration) -> str:
    """Why the gateway itself must serve this route; "" if another proxy can."""
    action = route.action
    if isinstance(action, DecideAction):
        return ""
    if not isinstance(action, ProxyAction):
        return "the answer is the gateway's own"
    holds = (
        (configuration.upstreams[action.upstream].auth, "the upstream gets the gateway's credentials"),
        (route.cors, "the gateway answers preflights"),
        (_falls_back(route), "the gateway answers by itself while IAM is down"),
        (
            not route.forward_token and _tokens_elsewhere(configuration.identity),
            "the gateway takes the token out of the request",
        ),
    )
    return next((reason for held, reason in holds if held), "")


def _tokens_elsewhere(identity: Identity) -> list[TokenIn]:
    places = getattr(identity, "places", ())
    return [place.kind for place in places if place.kind is not TokenIn.HEADER]


def _claim_fields(identity: Identity) -> list[str]:
    if isinstance(identity, JwtIdentity):
        rules = [issuer.rules for issuer in identity.issuers]
    else:
        rules = [identity.rules] if isinstance(identity, IntrospectionIdentity) else []
    return sorted({name.decode("ascii") for each in rules for name, _ in each.headers})


def _way(route: Route, configuration: Configuration, front: Front, gateway: Destination) -> Way:
    pattern, action = path_pattern(route.segments), route.action
    silence_s = max(route.deadline_s, route.resilience.timeout.read_s, route.stream_idle_timeout_s) + SLACK_S
    if isinstance(action, DecideAction) and front.backend is not None:
        return Way(route, pattern, True, Destination(BACKEND, (front.backend,)), silence_s=silence_s)
    if not isinstance(action, ProxyAction) or only_the_gateway(route, configuration):
        return Way(route, pattern, False, gateway, silence_s=silence_s)
    prefix = (action.strip_prefix or b"").rstrip(b"/").decode()
    there = _upstream(configuration.upstreams[action.upstream])
    return Way(route, pattern, True, there, prefix.count("/"), prefix, silence_s)


def _upstream(settings: UpstreamSettings) -> Destination:
    urls = [urlsplit(url) for url in settings.urls]
    secure = urls[0].scheme == "https"
    if any((url.scheme == "https") != secure for url in urls):
        raise NotExportable(f"upstreams.{settings.name}: some of its urls are https and some are not")
    port = 443 if secure else 80
    origins = tuple(Address(url.hostname or "", url.port or port) for url in urls)
    tls = settings.tls if secure else None
    return Destination(f"upstream-{settings.name}", origins, tls, urls[0].netloc, settings.max_connections)


def _remarks(configuration: Configuration, ways: tuple[Way, ...]) -> Iterator[str]:
    """One line for each thing that none of the proxies does as the gateway would."""
    for way in ways:
        if reason := only_the_gateway(way.route, configuration):
            yield f"Route {way.route.id} goes through the gateway: {reason}."
    yield "Retries, circuit breakers, connect timeouts and health checks of upstreams are the proxy's own matter."
    asked = [way.route for way in ways if way.asked]
    for text, holds in _NOT_CARRIED:
        if named := [route.id for route in asked if holds(route)]:
            yield f"{text}: {', '.join(named)}."
    places = _tokens_elsewhere(configuration.identity)
    if places and (named := [route.id for route in asked if not route.forward_token]):
        yield f"A token in {', '.join(places)} reaches the backend, nothing takes it out: {', '.join(named)}."


def _stands_in(route: Route) -> bool:
    return any(rule.mode is not UpstreamFailureMode.ERROR for rule in route.on_upstream_failure.values())


def _falls_back(route: Route) -> bool:
    return any(rule.mode is IamFailureMode.FALLBACK for rule in route.on_iam_failure.values())


_NOT_CARRIED: Final[tuple[tuple[str, Callable[[Route], bool]], ...]] = (
    ("Open streams are not asked about again (recheck)", lambda route: route.recheck_s is not None),
    ("No last good answer and no fallback stands in for a failing upstream", _stands_in),
    ("CORS preflights are decided like any request and never answered", lambda route: route.cors is not None),
    ("While IAM is down these answer 503 instead of their fallback response", _falls_back),
)
