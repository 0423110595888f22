"""`upstreams` → UpstreamSettings by name."""

from __future__ import annotations

from gateway.config.addresses import parse_origin
from gateway.config.compile.auth import compile_auth
from gateway.config.compile.outward import compile_tls, compile_urls
from gateway.config.compile.world import World
from gateway.config.keys.upstreams import UpstreamKeys
from gateway.config.validate import Section
from gateway.model.settings import HealthCheck, UpstreamSettings


def compile_upstream(name: str, section: Section[UpstreamKeys], world: World) -> UpstreamSettings:
    """One upstream; what is wrong is noted."""
    keys = section.keys
    urls = compile_urls(section, world, parse_origin, keys.urls, ("one-url", "exactly one of url and urls is needed"))
    https = not urls or any(url.scheme == "https" for url in urls)
    return UpstreamSettings(
        name=name,
        urls=tuple(url.text for url in urls),
        max_connections=keys.max_connections,
        max_pending=keys.max_pending,
        idle_timeout_s=keys.idle_timeout,
        max_connection_age_s=keys.max_connection_age,
        tls=compile_tls(section, keys.tls, world, https=https),
        health=_health(section, world),
        auth=compile_auth(section, section.keys.auth, world, urls) if section.sound("auth") else None,
    )


def _health(section: Section[UpstreamKeys], world: World) -> HealthCheck:
    keys = section.keys.health
    path = keys.path
    if path is not None and not (path.startswith("/") and path.isascii() and path.isprintable() and " " not in path):
        world.problems.error(section.at("health", "path"), "bad-path", "a path starts with / and is printable ASCII")
    return HealthCheck(path=path, interval_s=keys.interval, timeout_s=keys.timeout)
