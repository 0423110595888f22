"""The one interface of this room, and which class serves which setting."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import httpx

from gateway.errors import GatewayError
from gateway.identity.credentials import Challenge, HeaderTokens, PlacedTokens, Tokens, elsewhere
from gateway.identity.introspection import IntrospectionIdentifier
from gateway.identity.jwt import JwtIdentifier
from gateway.identity.key_ring import Clients, DiscoverySource, KeyRing
from gateway.identity.keys import FileSource, KeySource, UrlSource
from gateway.identity.subjects import HeaderIdentifier, OpaqueIdentifier
from gateway.identity.verifier import Verifier
from gateway.model.request import Request, Subject
from gateway.model.settings import HeaderIdentity, Identity, IntrospectionIdentity, JwtIdentity, JwtIssuer
from gateway.upstream.auth import Credentials


class Identifier(Protocol):
    """Says who asks."""

    async def identify(self, request: Request) -> Subject:
        """The subject of a request.

        Raises GatewayError: `unauthenticated` (with `WWW-Authenticate`), `bad_request` (several credentials),
        `headers_too_large` (the token is longer than `max_token`), `insufficient_scope` (a good token that lacks what
        is required), `identity_unavailable` (there never were keys, or the endpoint does not answer).
        """

    def late(self) -> GatewayError:
        """What to tell a caller whose deadline ended within `identify`: what was waited for is not IAM."""

    async def aclose(self) -> None:
        """End background work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Helpers:
    """What an identifier works with: `verifiers` of `jwt`, in order; the rest is for `introspection`."""

    verifiers: Sequence[Verifier] = ()
    http: httpx.AsyncClient | None = None
    credentials: Credentials | None = None


def build_verifier(issuer: JwtIssuer, clients: Clients) -> Verifier:
    """The keys of one issuer. `clients` fetch them, each for the origin of a URL.

    Raises ValueError for a key file that cannot be used and for an algorithm that nobody implements.
    """
    return Verifier(KeyRing(_source(issuer, clients), refresh_s=issuer.jwks_refresh_s))


def build_tokens(settings: Identity, *, max_token: int, realm: str = "edge") -> Tokens:
    """Where the tokens of `settings` are; a PlacedTokens where that is not `Authorization` alone."""
    if isinstance(settings, HeaderIdentity) or not elsewhere(settings.places):
        return HeaderTokens(Challenge(realm), max_token)
    return PlacedTokens(settings.places, challenge=Challenge(realm), max_token=max_token)


def build_identifier(
    settings: Identity,
    helpers: Helpers,
    *,
    max_token: int,
    clock: Callable[[], float] = time.time,
    realm: str = "edge",
) -> Identifier:
    """The identifier for `settings`. `clock` is Unix time; `realm` is shown in challenges."""
    challenge = Challenge(realm)
    if isinstance(settings, HeaderIdentity):
        return HeaderIdentifier(settings.name, challenge=challenge, max_value=max_token)
    tokens = build_tokens(settings, max_token=max_token, realm=realm)
    if isinstance(settings, JwtIdentity):
        return JwtIdentifier(settings.issuers, helpers.verifiers, tokens=tokens, challenge=challenge, clock=clock)
    if isinstance(settings, IntrospectionIdentity):
        if helpers.http is None:
            raise ValueError("identity.introspection needs a client to ask with")
        return IntrospectionIdentifier(
            settings,
            http=helpers.http,
            credentials=helpers.credentials,
            tokens=tokens,
            challenge=challenge,
            clock=clock,
        )
    return OpaqueIdentifier(tokens=tokens, challenge=challenge)


def _source(issuer: JwtIssuer, clients: Clients) -> KeySource:
    if issuer.jwks_file is not None:
        return FileSource(issuer.jwks_file, issuer.algorithms)
    if issuer.jwks_url is not None:
        return UrlSource(issuer.jwks_url, issuer.algorithms, clients(issuer.jwks_url))
    return DiscoverySource(issuer.issuer, issuer.algorithms, clients, refresh_s=issuer.jwks_refresh_s)
