"""Routes of the gateway as Envoy's: one virtual host per `host`, the most specific first, as Envoy takes the first.

Times: what answers with one document (aggregate, navigation, permissions, health) has the route's deadline and SLACK_S.
What is proxied has no limit on the whole, because a download may take as long as it flows; silence ends it, after the
longest that the gateway itself allows. The gateway's own times are shorter, so its answer comes first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from gateway.model.route import ProxyAction, Route, Segment
from gateway.model.settings import Configuration

CLUSTER: Final = "gateway"
SLACK_S: Final = 1.0
_RETRY: Final = {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 1}
"""Only what never reached the gateway is tried again: everything else is the gateway's to know."""


def seconds(value: float) -> str:
    """Envoy's duration."""
    return f"{value:g}s"


def virtual_hosts(configuration: Configuration) -> list[dict[str, Any]]:
    """For every named host its own routes and then those for any host; then one for all other hosts."""
    routes = sorted(configuration.routes, key=_specificity)
    hosts = sorted({route.host for route in routes if route.host is not None})
    for_any = [route for route in routes if route.host is None]
    last = _catch_all(configuration.server.deadline_s)
    found = []
    for host in hosts:
        own = [route for route in routes if route.host == host]
        found.append(_virtual_host(host, [host, f"{host}:*"], [*own, *for_any], last))
    return [*found, _virtual_host("any", ["*"], for_any, last)]


def _virtual_host(name: str, domains: list[str], routes: Iterable[Route], last: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "domains": domains, "routes": [*map(_route, routes), last]}


def _route(route: Route) -> dict[str, Any]:
    methods = "|".join(map(re.escape, sorted(route.methods | ({"HEAD"} if "GET" in route.methods else set()))))
    method = {"name": ":method", "string_match": {"safe_regex": {"regex": methods}}}
    return {
        "name": route.id,
        "match": {**_path(route.segments), "headers": [method]},
        "route": {"cluster": CLUSTER, "retry_policy": _RETRY, **_times(route)},
    }


def _catch_all(deadline_s: float) -> dict[str, Any]:
    """No route, or not this method: the gateway says so."""
    action = {"cluster": CLUSTER, "timeout": seconds(deadline_s + SLACK_S)}
    return {"name": "unknown", "match": {"prefix": "/"}, "route": action}


def _times(route: Route) -> dict[str, str]:
    if not isinstance(route.action, ProxyAction):
        return {"timeout": seconds(route.deadline_s + SLACK_S)}
    silence_s = max(route.deadline_s, route.resilience.timeout.read_s, route.stream_idle_timeout_s)
    return {"timeout": "0s", "idle_timeout": seconds(silence_s + SLACK_S)}


def _path(segments: tuple[Segment, ...]) -> dict[str, Any]:
    """Literal prefixes as such; what has parameters as a regular expression (RE2: linear in the path)."""
    if segments and segments[-1].rest:
        fixed = segments[:-1]
        if not fixed:
            return {"prefix": "/"}
        if all(segment.literal is not None for segment in fixed):
            return {"path_separated_prefix": _literal(fixed)}
        return {"safe_regex": {"regex": f"{_pattern(fixed)}(/.*)?"}}
    return {"safe_regex": {"regex": f"{_pattern(segments)}/?"}}


def _literal(segments: tuple[Segment, ...]) -> str:
    return "".join(f"/{segment.literal}" for segment in segments)


def _pattern(segments: tuple[Segment, ...]) -> str:
    return "".join("/" + ("[^/]+" if segment.literal is None else re.escape(segment.literal)) for segment in segments)


def _specificity(route: Route) -> list[int]:
    """Literal before `{x}` before `*`, left to right; the end of a path before its `*`."""
    return [0 if segment.literal is not None else 2 if segment.rest else 1 for segment in route.segments] + [-1]
