"""`upstreams` → UpstreamSettings by name."""

from __future__ import annotations

from typing import Final

from gateway.config.addresses import Url, parse_origin, parse_resource
from gateway.config.compile.outward import compile_tls, compile_url, warn_plain_http
from gateway.config.compile.world import World
from gateway.config.keys.upstreams import OAuth2Keys, UpstreamKeys
from gateway.config.problems import quoted
from gateway.config.validate import Section
from gateway.model.settings import (
    BasicAuth,
    BearerAuth,
    HealthCheck,
    OAuth2ClientCredentials,
    UpstreamAuth,
    UpstreamSettings,
)

_KINDS: Final = ("bearer", "basic", "oauth2_client_credentials")


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
        auth=_auth(section, world, urls) if section.sound("auth") else None,
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


def _auth(section: Section[UpstreamKeys], world: World, urls: list[Url]) -> UpstreamAuth | None:
    keys = section.keys.auth
    if keys is None:
        return None
    given = [kind for kind in _KINDS if section.has("auth", kind)]
    if len(given) != 1:
        message = "exactly one of bearer, basic and oauth2_client_credentials is needed"
        world.problems.error(section.key("auth"), "one-auth", message)
        return None
    for url in urls[:1]:
        warn_plain_http(section, world, url, "the gateway's credentials go", "auth")
    if keys.bearer is not None:
        return BearerAuth(keys.bearer if isinstance(keys.bearer, str) else keys.bearer.token)
    if keys.basic is not None:
        return _basic(section, world, keys.basic.username, keys.basic.password)
    return _oauth2(section, world, keys.oauth2_client_credentials)


def _basic(section: Section[UpstreamKeys], world: World, username: str, password: str) -> BasicAuth:
    if ":" in username:
        message = f"{quoted(username)}: a user name can't hold a colon (RFC 7617)"
        world.problems.error(section.at("auth", "basic", "username"), "bad-value", message)
    return BasicAuth(username, password)


def _oauth2(section: Section[UpstreamKeys], world: World, keys: OAuth2Keys | None) -> OAuth2ClientCredentials | None:
    path = ("auth", "oauth2_client_credentials", "token_url")
    url = compile_url(section, world, parse_resource, *path)
    if keys is None or url is None:
        return None
    warn_plain_http(section, world, url, "the client's secret goes", *path)
    return OAuth2ClientCredentials(
        token_url=url.text, client_id=keys.client_id, client_secret=keys.client_secret, scope=keys.scope
    )
