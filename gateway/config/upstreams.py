"""`upstreams`: their keys, `UpstreamSettings` made of them, and what IAM has in common with them: TLS, `auth`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import Field, Tag

from gateway.config.compile_context import CompileContext
from gateway.config.files import check_authorities, check_pair
from gateway.config.keys import (
    Count,
    Duration,
    FilePath,
    Flag,
    Keys,
    Maybe,
    RequiredSecret,
    Text,
    Word,
    by_shape,
    group,
    key,
    optional,
    required,
)
from gateway.config.problems import quoted
from gateway.config.tree import Step
from gateway.config.validate import Section
from gateway.config.values import Url, is_loopback, parse_origin, parse_resource
from gateway.model.settings import (
    BasicAuth,
    BearerAuth,
    ClientAuthentication,
    ClientTls,
    HealthCheck,
    OAuth2ClientCredentials,
    UpstreamAuth,
    UpstreamSettings,
)

# `upstreams`: the systems behind the gateway, and how it shows itself to them.


class ClientTlsKeys(Keys):
    """TLS towards an upstream or IAM."""

    ca_file: Maybe[FilePath] = optional("The trusted certificate authorities, PEM. When left out: the system's.")
    cert_file: Maybe[FilePath] = optional("The gateway's own certificate chain, PEM.")
    key_file: Maybe[FilePath] = optional("Its private key, PEM.")
    server_name: Maybe[Text] = optional(
        "The name that the certificate must have. It is also sent as SNI. When left out: the URL's host."
    )
    verify: Flag = key(True, "false accepts any certificate. Only for tests.")


class HealthCheckKeys(Keys):
    """How /health/systems checks the system. With several `urls` and a `path`, each is checked every `interval`."""

    path: Maybe[Text] = optional(
        "The path of a GET. A 2xx means healthy. When left out: a TCP connection means healthy."
    )
    interval: Duration = key(
        "10s",
        "With several `urls`: the time between two checks of each. A url that fails gets no requests until it answers.",
    )
    timeout: Duration = key("2s", "The time for one check.")


class BearerKeys(Keys):
    """A fixed bearer token."""

    token: RequiredSecret = required("The token.")


class BasicKeys(Keys):
    """User and password of RFC 7617."""

    username: Text = required("The user. It can't contain a colon.")
    password: RequiredSecret = required("The password.")


class OAuth2Keys(Keys):
    """A token of RFC 6749 section 4.4. It is fetched once, shared, and renewed before it expires."""

    token_url: Text = required("The authorization server's token endpoint.")
    client_id: Text = required("The gateway's client id.")
    client_secret: Maybe[RequiredSecret] = optional("Its secret. Required unless `client_auth: private_key_jwt`.")
    scope: Maybe[Text] = optional("The scope to ask for.")
    audience: Maybe[Text] = optional("The system that the token is for, for servers that require an `audience`.")
    resource: Maybe[Text] = optional("The system that the token is for, as a URI (RFC 8707).")
    client_auth: Annotated[Literal["basic", "post", "private_key_jwt"], Word] = key(
        "basic",
        "How the gateway authenticates there. basic: the secret in HTTP Basic · post: the secret in the form · "
        "private_key_jwt: without a secret, by an assertion signed with `key_file` (RFC 7523).",
    )
    key_file: Maybe[FilePath] = optional("private_key_jwt: the key, PEM without a passphrase: RSA, EC or Ed25519.")
    key_id: Maybe[Text] = optional("private_key_jwt: the `kid` of the assertion. When left out: none.")


Bearer = Annotated[
    Annotated[RequiredSecret, Tag("<token>")] | Annotated[BearerKeys, Tag("<keys>")],
    by_shape("a token or {token: …} is expected", token=str, keys=dict),
]


class AuthKeys(Keys):
    """How the gateway authenticates itself, instead of sending on the caller's credentials. Exactly one."""

    bearer: Maybe[Bearer] = optional("A fixed bearer token: the text itself, or {token: …}.")
    basic: Maybe[BasicKeys] = optional("User and password.")
    oauth2_client_credentials: Maybe[OAuth2Keys] = optional("A token from an OAuth 2 authorization server.")


class UpstreamKeys(Keys):
    """One system, with one origin or several origins that share their limits. Exactly one of `url` and `urls`."""

    url: Maybe[Text] = optional("http:// or https://, host and port. No path.")
    urls: Maybe[Annotated[list[Text], Field(min_length=1, max_length=256)]] = optional(
        "Several origins. Of two random ones, the one with fewer requests in flight gets the request."
    )
    max_connections: Count = key(
        256, "The most connections to the upstream. Further requests wait within their deadline."
    )
    max_pending: Count = key(1024, "The most requests that wait for a connection. Further requests get 503.")
    idle_timeout: Duration = key("60s", "How long an unused connection is kept.")
    max_connection_age: Duration = key(
        "10m",
        "After this time (± a tenth) a connection gets no further request. New connections use the present address of "
        "a name.",
    )
    tls: ClientTlsKeys = group(ClientTlsKeys, "TLS, for https:// origins.")
    health: HealthCheckKeys = group(HealthCheckKeys, "How /health/systems checks this system.")
    auth: Maybe[AuthKeys] = optional("The gateway's own credentials. When left out: the caller's are sent on.")


# What IAM and upstreams have in common: URLs that are warned about, TLS, retries and breakers of their own.

M = TypeVar("M", bound=Keys)


def compile_url(section: Section[M], world: CompileContext, parse: Callable[[str], Url], *path: Step) -> Url | None:
    """The URL at `path`, or None where it is missing or wrong."""
    node = section.node.get(*path)
    if node is None or not section.sound(*path):
        return None
    return world.attempt(node.mark, "bad-url", parse, str(node.value))


def compile_urls(
    section: Section[M],
    world: CompileContext,
    parse: Callable[[str], Url],
    several: Sequence[str] | None,
    missing: tuple[str, str] | None,
) -> list[Url]:
    """The section's `url`, or its `urls` (`several`). `missing`: the mistake, if any, that it is to have neither."""
    one, many = section.has("url"), section.has("urls")
    if not (section.sound("url") and section.sound("urls")):
        return []
    if one and many:
        world.problems.error(section.key("urls"), "one-url", "exactly one of url and urls is needed")
        return []
    if not one and not many and missing is not None:
        world.problems.error(section.at(), *missing)
    urls: list[Url] = []
    for path in [("urls", index) for index, _ in enumerate(several or ())] if many else [("url",)]:
        url = compile_url(section, world, parse, *path)
        if url is not None and url.text in [other.text for other in urls]:
            world.problems.error(section.at(*path), "same-url", f"{url.text} is there twice among the urls")
        if url is not None:
            urls.append(url)
    return urls


def warn_plain_http(section: Section[M], world: CompileContext, url: Url, what: str, *path: Step) -> None:
    """Secrets in clear text are fine on loopback only."""
    if url.scheme == "http" and not is_loopback(url.host):
        world.problems.warning(section.at(*path), "plain-http", f"{what} in clear text to {url.host}; use https://")


def compile_tls(section: Section[M], keys: ClientTlsKeys, world: CompileContext, *, https: bool) -> ClientTls:
    """TLS towards the section's URL. `https`: at least one URL uses it."""
    files = {name: world.file(section.node.get("tls", name)) for name in ("ca_file", "cert_file", "key_file")}
    if (keys.cert_file is None) != (keys.key_file is None) and section.sound("tls"):
        message = "cert_file and key_file belong together"
        world.problems.error(section.key("tls"), "tls-pair", message)
    check_pair(section.key("tls"), files["cert_file"], files["key_file"], world.problems)
    check_authorities(section.at("tls", "ca_file"), files["ca_file"], world.problems)
    if not keys.verify:
        message = "any certificate is accepted: an attacker between the two can answer"
        world.problems.warning(section.key("tls", "verify"), "tls-unverified", message)
    if section.has("tls") and not https and section.sound("url") and section.sound("urls"):
        world.problems.warning(section.key("tls"), "unused-key", "tls has no effect: the url is not https://")
    return _tls(keys, files)


def _tls(keys: ClientTlsKeys, files: dict[str, Path | None]) -> ClientTls:
    return ClientTls(
        ca_file=files["ca_file"],
        cert_file=files["cert_file"],
        key_file=files["key_file"],
        server_name=keys.server_name,
        verify=keys.verify,
    )


# `auth` → the gateway's own credentials: towards an upstream, or whoever else is asked.

_KINDS: Final = ("bearer", "basic", "oauth2_client_credentials")


def compile_auth(
    section: Section[M], keys: AuthKeys | None, world: CompileContext, urls: list[Url]
) -> UpstreamAuth | None:
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


def _basic(section: Section[M], world: CompileContext, username: str, password: str) -> BasicAuth:
    if ":" in username:
        message = f"{quoted(username)}: a user name can't hold a colon (RFC 7617)"
        world.problems.error(section.at("auth", "basic", "username"), "bad-value", message)
    return BasicAuth(username, password)


def _oauth2(section: Section[M], world: CompileContext, keys: OAuth2Keys | None) -> OAuth2ClientCredentials | None:
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


def _check_client_auth(section: Section[M], world: CompileContext, keys: OAuth2Keys, key_file: Path | None) -> None:
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


def _check_key(section: Section[M], world: CompileContext, file: Path, *path: Step) -> None:
    from gateway.upstream.oauth2 import algorithm_of  # heavy, and few configurations have a key

    try:
        algorithm_of(file.read_bytes())
    except (OSError, ValueError) as error:
        world.problems.error(section.at(*path), "bad-key", f"{file.name}: {error}")


# `upstreams` → UpstreamSettings by name.


def compile_upstream(name: str, section: Section[UpstreamKeys], world: CompileContext) -> UpstreamSettings:
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


def _health(section: Section[UpstreamKeys], world: CompileContext) -> HealthCheck:
    keys = section.keys.health
    path = keys.path
    if path is not None and not (path.startswith("/") and path.isascii() and path.isprintable() and " " not in path):
        world.problems.error(section.at("health", "path"), "bad-path", "a path starts with / and is printable ASCII")
    return HealthCheck(path=path, interval_s=keys.interval, timeout_s=keys.timeout)
