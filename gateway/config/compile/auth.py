"""`auth` → the gateway's own credentials: towards an upstream, or whoever else is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeVar

from gateway.config.addresses import Url, parse_resource
from gateway.config.compile.outward import compile_url, warn_plain_http
from gateway.config.compile.world import World
from gateway.config.keys.base import Keys
from gateway.config.keys.upstreams import AuthKeys, OAuth2Keys
from gateway.config.problems import quoted
from gateway.config.tree import Step
from gateway.config.validate import Section
from gateway.model.settings import BasicAuth, BearerAuth, ClientAuthentication, OAuth2ClientCredentials, UpstreamAuth

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
    path = ("auth", "oauth2_client_credentials")
    url = compile_url(section, world, parse_resource, *path, "token_url")
    if keys is None or not section.sound(*path):
        return None
    key_file = world.file(section.node.get(*path, "key_file"))
    _check_client_auth(section, world, keys, key_file)
    if url is None:
        return None
    warn_plain_http(section, world, url, "the client's credentials go", *path, "token_url")
    return OAuth2ClientCredentials(
        token_url=url.text,
        client_id=keys.client_id,
        client_secret=keys.client_secret or "",
        client_auth=ClientAuthentication(keys.client_auth),
        key_file=key_file,
        **{name: getattr(keys, name) for name in ("scope", "audience", "resource", "key_id")},
    )


def _check_client_auth(section: Section[M], world: World, keys: OAuth2Keys, key_file: Path | None) -> None:
    """Either a secret or a key, as `client_auth` says."""
    path: tuple[Step, ...] = ("auth", "oauth2_client_credentials")
    signs = keys.client_auth == "private_key_jwt"
    wanted, others = ("key_file", ["client_secret"]) if signs else ("client_secret", ["key_file", "key_id"])
    if not section.has(*path, wanted):
        message = f'the key "{wanted}" is missing: client_auth: {keys.client_auth} needs it'
        world.problems.error(section.key(*path), "missing-key", message)
    for name in others:
        if section.has(*path, name):
            message = f"{name} has no effect with client_auth: {keys.client_auth}"
            world.problems.warning(section.key(*path, name), "unused-key", message)
    if key_file is not None:
        _check_key(section, world, key_file, *path, "key_file")


def _check_key(section: Section[M], world: World, file: Path, *path: Step) -> None:
    from gateway.upstream.client_auth import algorithm_of  # noqa: PLC0415 - heavy, and few configurations have a key

    try:
        algorithm_of(file.read_bytes())
    except (OSError, ValueError) as error:
        world.problems.error(section.at(*path), "bad-key", f"{file.name}: {error}")
