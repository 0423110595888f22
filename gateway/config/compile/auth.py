"""`auth` → the gateway's own credentials: towards an upstream, or whoever else is asked."""

from __future__ import annotations

from typing import Final, TypeVar

from gateway.config.addresses import Url, parse_resource
from gateway.config.compile.outward import compile_url, warn_plain_http
from gateway.config.compile.world import World
from gateway.config.keys.base import Keys
from gateway.config.keys.upstreams import AuthKeys, OAuth2Keys
from gateway.config.problems import quoted
from gateway.config.validate import Section
from gateway.model.settings import BasicAuth, BearerAuth, OAuth2ClientCredentials, UpstreamAuth

M = TypeVar("M", bound=Keys)
_KINDS: Final = ("bearer", "basic", "oauth2_client_credentials")


def compile_auth(section: Section[M], keys: AuthKeys | None, world: World, urls: list[Url]) -> UpstreamAuth | None:
    """The section's `auth`. `urls`: where the credentials go."""
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


def _basic(section: Section[M], world: World, username: str, password: str) -> BasicAuth:
    if ":" in username:
        message = f"{quoted(username)}: a user name can't hold a colon (RFC 7617)"
        world.problems.error(section.at("auth", "basic", "username"), "bad-value", message)
    return BasicAuth(username, password)


def _oauth2(section: Section[M], world: World, keys: OAuth2Keys | None) -> OAuth2ClientCredentials | None:
    path = ("auth", "oauth2_client_credentials", "token_url")
    url = compile_url(section, world, parse_resource, *path)
    if keys is None or url is None:
        return None
    warn_plain_http(section, world, url, "the client's secret goes", *path)
    return OAuth2ClientCredentials(
        token_url=url.text, client_id=keys.client_id, client_secret=keys.client_secret, scope=keys.scope
    )
