"""`upstreams`: the systems behind the gateway, and how it shows itself to them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag

from gateway.config.keys.base import Keys, Maybe, by_shape, group, key, optional, required
from gateway.config.keys.types import Count, Duration, FilePath, Flag, RequiredSecret, Text, Word


class ClientTlsKeys(Keys):
    """TLS towards an upstream or IAM."""

    ca_file: Maybe[FilePath] = optional("Authorities to believe, PEM. When left out: the system's.")
    cert_file: Maybe[FilePath] = optional("The gateway's own certificate chain, PEM.")
    key_file: Maybe[FilePath] = optional("Its private key, PEM.")
    server_name: Maybe[Text] = optional(
        "The name expected in the certificate and sent as SNI. When left out: the URL's."
    )
    verify: Flag = key(True, "false believes any certificate. For a test bench only.")


class HealthCheckKeys(Keys):
    """How /health/systems asks the system; with several `urls` and a path, each is also asked every `interval`."""

    path: Maybe[Text] = optional("GET this; a 2xx is healthy. When left out: a TCP connection.")
    interval: Duration = key(
        "10s",
        "With several `urls`: the time between two checks of each. One that fails gets no requests till it answers.",
    )
    timeout: Duration = key("2s", "The time for one check.")


class BearerKeys(Keys):
    """A fixed bearer token."""

    token: RequiredSecret = required("The token.")


class BasicKeys(Keys):
    """RFC 7617."""

    username: Text = required("The user; it can't hold a colon.")
    password: RequiredSecret = required("The password.")


class OAuth2Keys(Keys):
    """RFC 6749 section 4.4: fetched once, shared, renewed before it expires."""

    token_url: Text = required("The authorization server's token endpoint.")
    client_id: Text = required("The gateway's client id.")
    client_secret: Maybe[RequiredSecret] = optional("Its secret. Required unless `client_auth: private_key_jwt`.")
    scope: Maybe[Text] = optional("The scope to ask for.")
    audience: Maybe[Text] = optional("Whom the token is for, for servers that ask for an `audience`.")
    resource: Maybe[Text] = optional("Whom the token is for, as a URI (RFC 8707).")
    client_auth: Annotated[Literal["basic", "post", "private_key_jwt"], Word] = key(
        "basic",
        "How the secret goes there. basic: HTTP Basic · post: in the form · private_key_jwt: not at all, an assertion "
        "is signed with `key_file` (RFC 7523).",
    )
    key_file: Maybe[FilePath] = optional("private_key_jwt: the key, PEM without a passphrase: RSA, EC or Ed25519.")
    key_id: Maybe[Text] = optional("private_key_jwt: the `kid` of the assertion. None when left out.")


Bearer = Annotated[
    Annotated[RequiredSecret, Tag("<token>")] | Annotated[BearerKeys, Tag("<keys>")],
    by_shape("a token or {token: …} is expected", token=str, keys=dict),
]


class AuthKeys(Keys):
    """How the gateway authenticates itself, instead of passing on the caller's credentials. Exactly one."""

    bearer: Maybe[Bearer] = optional("A fixed bearer token: the token, or {token: …}.")
    basic: Maybe[BasicKeys] = optional("User and password.")
    oauth2_client_credentials: Maybe[OAuth2Keys] = optional("A token from an OAuth 2 authorization server.")


class UpstreamKeys(Keys):
    """One system: one or several origins that share their limits. Exactly one of `url` and `urls`."""

    url: Maybe[Text] = optional("http:// or https://, host and port; nothing after the port.")
    urls: Maybe[Annotated[list[Text], Field(min_length=1, max_length=256)]] = optional(
        "Several origins, balanced by least in flight of two at random."
    )
    max_connections: Count = key(256, "Connections to the upstream; further requests wait within their deadline.")
    max_pending: Count = key(1024, "Requests that may wait for a connection; more are answered 503.")
    idle_timeout: Duration = key("60s", "How long an unused connection is kept.")
    max_connection_age: Duration = key(
        "10m",
        "After this time, give or take a tenth, a connection is not used for a further request. New connections follow"
        " a name that has moved to another address.",
    )
    tls: ClientTlsKeys = group(ClientTlsKeys, "TLS, for https:// origins.")
    health: HealthCheckKeys = group(HealthCheckKeys, "How /health/systems asks this system.")
    auth: Maybe[AuthKeys] = optional("The gateway's own credentials. When left out the caller's are passed on.")
