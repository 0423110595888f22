"""`upstreams` → UpstreamSettings by name."""

from __future__ import annotations

from gateway.config.addresses import Url, parse_origin
from gateway.config.compile.auth import compile_auth
from gateway.config.compile.outward import compile_tls, compile_url
from gateway.config.compile.world import World
from gateway.config.keys.upstreams import UpstreamKeys
from gateway.config.validate import Section
from gateway.model.settings import HealthCheck, UpstreamSettings


def compile_upstream(name: str, section: Section[UpstreamKeys], world: World) -> UpstreamSettings:
    """One upstream; what is wrong is noted."""
    keys = section.keys
    urls = _urls(section, world)
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


def _urls(section: Section[UpstreamKeys], world: World) -> list[Url]:
    if section.has("url") == section.has("urls"):
        mark = section.key("urls") if section.has("urls") else section.at()
        if section.sound("url") and section.sound("urls"):
            world.problems.error(mark, "one-url", "exactly one of url and urls is needed")
        return []
    paths = [("url",)] if section.has("url") else [("urls", index) for index, _ in enumerate(section.keys.urls or ())]
    urls: list[Url] = []
    for path in paths:
        url = compile_url(section, world, parse_origin, *path)
        if url is not None and url.text in [other.text for other in urls]:
            world.problems.error(section.at(*path), "same-url", f"{url.text} stands twice among the urls")
        if url is not None:
            urls.append(url)
    return urls


def _health(section: Section[UpstreamKeys], world: World) -> HealthCheck:
    keys = section.keys.health
    path = keys.path
    if path is not None and not (path.startswith("/") and path.isascii() and path.isprintable() and " " not in path):
        world.problems.error(section.at("health", "path"), "bad-path", "a path starts with / and is printable ASCII")
    return HealthCheck(path=path, interval_s=keys.interval, timeout_s=keys.timeout)
