"""`identity`: how the gateway learns who asks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.config.keys.base import Keys, Maybe, key, listing, optional, required
from gateway.config.keys.types import Duration, DurationOrZero, FilePath, HeaderName, Text


class JwtKeys(Keys):
    """Bearer tokens that are verified here. Exactly one of `jwks_url` and `jwks_file`."""

    issuer: Text = required("The `iss` that a token must carry.")
    audience: Text = required("The `aud` that a token must carry.")
    algorithms: Annotated[list[Text], Field(min_length=1)] = key(
        ["RS256", "ES256", "EdDSA"], "The signature algorithms that are accepted; all asymmetric."
    )
    jwks_url: Maybe[Text] = optional("Where the issuer's keys are fetched.")
    jwks_file: Maybe[FilePath] = optional("The issuer's keys as a file.")
    claims: list[Text] = listing("Claims that IAM is told as properties of the subject.")
    leeway: DurationOrZero = key("30s", "How far clocks may differ when `exp` and `nbf` are checked.")
    jwks_refresh: Duration = key("10m", "How often the keys are fetched again.")


class OpaqueKeys(Keys):
    """Nobody is authenticated here: the bearer token is the subject and IAM resolves it."""


class HeaderKeys(Keys):
    """A trusted proxy names the subject."""

    name: HeaderName = required("The header field that holds the subject's id.")


class IdentityKeys(Keys):
    """How the gateway learns who asks. Exactly one."""

    jwt: Maybe[JwtKeys] = optional("Bearer tokens that are verified here.")
    opaque: Maybe[OpaqueKeys] = optional("The bearer token is the subject and IAM resolves it: `opaque: {}`.")
    header: Maybe[HeaderKeys] = optional("A header field set by one of server.trusted_proxies.")
