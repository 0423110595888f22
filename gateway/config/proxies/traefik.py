"""Traefik: the dynamic configuration of the file provider, with `forwardAuth` on every router.

Traefik chooses the router before it asks. So each router says in `X-Gateway-Route` by which route it would forward, and
the gateway refuses where it decided on another one.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

from gateway.config.proxies.plan import GATEWAY, NO_ROUTE, Destination, Plan, Way, field_pattern, names, prefixes, shown
from gateway.model.settings import ClientTls

_CLEAN, _ASK, _UNKNOWN = "gateway-clean", "gateway-decision", "gateway-no-route"
_MIB: Final = 1024 * 1024
_OWN_REMARKS: Final = (
    "A gateway that does not answer is 500 here, not 503; `forwardAuth` has no setting for it. It waits up to 30 s.",
    "X-Gateway-Degraded reaches the backend and not the caller: `forwardAuth` sets no fields of the answer.",
    "max_body, timeout.read, stream_idle_timeout, server.max_concurrency and max_streams are not limited here.",
    "Encoded slashes and the like are refused by Traefik's own `encodedCharacters` of the entry point.",
)


def traefik_dynamic(plan: Plan) -> str:
    """YAML for `providers.file`."""
    head = [
        "# Traefik in front of the decision listener of the gateway: the dynamic configuration. In the static one:",
        f'#   entryPoints: {{gateway: {{address: "{plan.listen}"}}}}',
        "#   providers: {file: {filename: THIS FILE}}",
        "# What it cannot carry:",
        *(f"#   {remark}" for remark in (*plan.remarks, *_OWN_REMARKS)),
    ]
    document: dict[str, Any] = {"http": _http(plan)}
    tls = plan.configuration.server.tls
    if tls is not None:
        document["tls"] = {"certificates": [{"certFile": str(tls.cert_file), "keyFile": str(tls.key_file)}]}
    return "\n".join([*head, yaml.safe_dump(document, sort_keys=False, width=1000, allow_unicode=True)])


def _http(plan: Plan) -> dict[str, Any]:
    secure: dict[str, Any] = {} if plan.configuration.server.tls is None else {"tls": {}}
    routers = {
        f"route-{way.route.id}": {**_router(way, len(plan.ways) - number + 1), **secure}
        for number, way in enumerate(plan.ways)
    }
    unknown = {"rule": "PathPrefix(`/`)", "priority": 1, "middlewares": [_CLEAN, _UNKNOWN, _ASK], "service": GATEWAY}
    middlewares: dict[str, Any] = {_CLEAN: _clean(plan), _ASK: _ask(plan), _UNKNOWN: _expecting(NO_ROUTE)}
    services: dict[str, Any] = {GATEWAY: _service(plan.gateway, keeps_host=True)}
    transports = {}
    for way in plan.ways:
        if way.asked:
            middlewares[f"expect-{way.route.id}"] = _expecting(way.route.id)
        if way.strip:
            middlewares[f"strip-{way.strip}"] = {"stripPrefixRegex": {"regex": [f"^(/[^/]*){{{way.strip}}}"]}}
        services[_served_by(way)] = _service(way.destination, keeps_host=way.authority is None)
    for destination in plan.destinations:
        if destination.tls is not None:
            transports[destination.name] = _transport(destination.tls)
    found = {
        "routers": {**routers, "no-route": {**unknown, **secure}},
        "middlewares": middlewares,
        "services": services,
    }
    return {**found, "serversTransports": transports} if transports else found


def _router(way: Way, priority: int) -> dict[str, Any]:
    rule = f"PathRegexp(`{way.pattern}`)"
    if way.route.host is not None:
        rule = f"Host(`{way.route.host}`) && {rule}"
    steps = [_CLEAN]
    if way.asked:
        steps += [f"expect-{way.route.id}", _ASK]
    if way.strip:
        steps.append(f"strip-{way.strip}")
    return {"rule": rule, "priority": priority, "middlewares": steps, "service": _served_by(way)}


def _served_by(way: Way) -> str:
    kept = way.authority is None and way.destination.authority is not None
    return f"{way.destination.name}{'-keeps-host' if kept else ''}"


def _expecting(route: str) -> dict[str, Any]:
    return {"headers": {"customRequestHeaders": {"X-Gateway-Route": route}}}


def _clean(plan: Plan) -> dict[str, Any]:
    """An empty value takes a field off."""
    server = plan.configuration.server
    known = (*plan.told, *(name for name in names(server) if name != "x-real-ip"))
    return {"headers": {"customRequestHeaders": {shown(name): "" for name in dict.fromkeys(known)}}}


def _ask(plan: Plan) -> dict[str, Any]:
    """What a decision tells replaces every field of these families that the caller sent, in any spelling."""
    server = plan.configuration.server
    taken = [start for start in prefixes(server) if start != "x-forwarded-"]
    return {
        "forwardAuth": {
            "address": f"http://{plan.decisions}/traefik",
            "trustForwardHeader": False,
            "forwardBody": False,
            "maxResponseBodySize": _MIB,
            "authResponseHeaders": ["X-Request-ID"],
            "authResponseHeadersRegex": field_pattern(taken, [n for n in names(server) if n != "x-real-ip"]),
        }
    }


def _service(destination: Destination, *, keeps_host: bool) -> dict[str, Any]:
    scheme = "http" if destination.tls is None else "https"
    balancer: dict[str, Any] = {
        "servers": [{"url": f"{scheme}://{origin}"} for origin in destination.origins],
        "passHostHeader": keeps_host,
        "responseForwarding": {"flushInterval": "-1ns"},
    }
    if destination.tls is not None:
        balancer["serversTransport"] = destination.name
    return {"loadBalancer": balancer}


def _transport(tls: ClientTls) -> dict[str, Any]:
    found: dict[str, Any] = {"insecureSkipVerify": not tls.verify}
    if tls.server_name is not None:
        found["serverName"] = tls.server_name
    if tls.ca_file is not None:
        found["rootCAs"] = [str(tls.ca_file)]
    if tls.cert_file is not None:
        found["certificates"] = [{"certFile": str(tls.cert_file), "keyFile": str(tls.key_file)}]
    return found
