"""`identity`: how the gateway learns who asks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag

from gateway.config.keys.base import Keys, Maybe, by_shape, group, key, listing, optional, required
from gateway.config.keys.types import Duration, DurationOrZero, FilePath, HeaderName, Text, Word
from gateway.config.keys.upstreams import AuthKeys

Audience = Annotated[
    Annotated[Text, Tag("<one>")] | Annotated[Annotated[list[Text], Field(min_length=1)], Tag("<several>")],
    by_shape("text or a list of texts is expected", one=str, several=list),
]


class SubjectKeys(Keys):
    """Who the subject is, as templates in which `{claim.NAME}` stands for a claim."""

    type: Text = key("identity", "The type of the subject.")
    id: Text = key("{claim.sub}", "Its id.")


class IdentityTlsKeys(Keys):
    """TLS towards the issuer, for https://."""

    ca_file: Maybe[FilePath] = optional("Authorities to believe, PEM. When left out: the system's.")


class ClaimKeys(Keys):
    """What is made of the claims of a good token."""

    subject: SubjectKeys = group(SubjectKeys, "Who the subject is.")
    claims: list[Text] = listing(
        "Claims that IAM is told as properties of the subject: a claim of exactly that name, else the dotted path."
    )
    headers: dict[HeaderName, Text] = Field(
        default_factory=dict,
        description="Request headers that the upstream is told claims by; their names begin with `X-Auth-`.",
    )
    required: dict[Text, Annotated[list[Text], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="Claims (a list, or a text separated by spaces) and the values that each must hold; else 403.",
    )
    tls: IdentityTlsKeys = group(IdentityTlsKeys, "TLS, for https://.")


class JwtKeys(ClaimKeys):
    """Bearer tokens that are verified here. Without `jwks_url` and `jwks_file`: OpenID discovery at the issuer."""

    issuer: Text = required("The `iss` that a token must carry.")
    audience: Audience = required("The `aud` that a token must carry, or a list of which it must carry one.")
    algorithms: Annotated[list[Text], Field(min_length=1)] = key(
        ["RS256", "ES256", "EdDSA"], "The signature algorithms that are accepted; all asymmetric."
    )
    jwks_url: Maybe[Text] = optional("Where the issuer's keys are fetched.")
    jwks_file: Maybe[FilePath] = optional("The issuer's keys as a file.")
    leeway: DurationOrZero = key("30s", "How far clocks may differ when `exp` and `nbf` are checked.")
    jwks_refresh: Duration = key("10m", "How often the keys are fetched again.")


class IntrospectionKeys(ClaimKeys):
    """Opaque tokens that an authorization server is asked about (RFC 7662)."""

    url: Text = required("The introspection endpoint.")
    auth: Maybe[AuthKeys] = optional("The gateway's own credentials towards the endpoint.")
    cache: DurationOrZero = key("30s", "How long a good token is remembered, never past its `exp`. 0s: not at all.")


class OpaqueKeys(Keys):
    """Nobody is authenticated here: the bearer token is the subject and IAM resolves it."""


class HeaderKeys(Keys):
    """A trusted proxy names the subject."""

    name: HeaderName = required("The header field that holds the subject's id.")


class TokenPlaceKeys(Keys):
    """A place with a name. Exactly one."""

    cookie: Maybe[Text] = optional("The cookie of this name.")
    query: Maybe[Text] = optional("The query parameter of this name; it is cut out before the target is matched.")


TokenPlace = Annotated[
    Annotated[Annotated[Literal["header", "websocket_protocol"], Word], Tag("<word>")]
    | Annotated[TokenPlaceKeys, Tag("<keys>")],
    by_shape("header, websocket_protocol, {cookie: NAME} or {query: NAME} is expected", word=str, keys=dict),
]

Jwt = Annotated[
    Annotated[JwtKeys, Tag("<one>")] | Annotated[Annotated[list[JwtKeys], Field(min_length=1)], Tag("<several>")],
    by_shape("a mapping, or a list of them, is expected", one=dict, several=list),
]


class IdentityKeys(Keys):
    """How the gateway learns who asks. Exactly one of `jwt`, `introspection`, `opaque` and `header`."""

    jwt: Maybe[Jwt] = optional("Bearer tokens that are verified here; of several issuers the token's `iss` chooses.")
    introspection: Maybe[IntrospectionKeys] = optional("Bearer tokens that an authorization server is asked about.")
    opaque: Maybe[OpaqueKeys] = optional("The bearer token is the subject and IAM resolves it: `opaque: {}`.")
    header: Maybe[HeaderKeys] = optional("A header field set by one of server.trusted_proxies.")
    token: Annotated[list[TokenPlace], Field(min_length=1)] = key(
        ["header"],
        "Where the token is looked for; the first place that holds one is used. `header` is `Authorization: Bearer`, "
        "`websocket_protocol` the last two of `Sec-WebSocket-Protocol: …, bearer, TOKEN`.",
    )
