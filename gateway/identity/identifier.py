"""The one interface of this room, and which class serves which setting."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import httpx

from gateway.errors import GatewayError
from gateway.identity.bearer import Challenge
from gateway.identity.header import HeaderIdentifier
from gateway.identity.jwks import FileSource, KeySource, UrlSource
from gateway.identity.jwt import JwtIdentifier
from gateway.identity.key_ring import KeyRing
from gateway.identity.opaque import OpaqueIdentifier
from gateway.model.request import Request
from gateway.model.settings import HeaderIdentity, Identity, JwtIdentity, OpaqueIdentity
from gateway.model.subject import Subject


class Identifier(Protocol):
    """Says who asks."""

    async def identify(self, request: Request) -> Subject:
        """The subject of a request.

        Raises GatewayError: `unauthenticated` (with `WWW-Authenticate`), `bad_request` (several credentials),
        `headers_too_large` (the token is longer than `max_token`), `identity_unavailable` (there never were keys).
        """

    def late(self) -> GatewayError:
        """What to tell a caller whose deadline ended within `identify`: what was waited for is not IAM."""

    async def aclose(self) -> None:
        """End background work."""


def build_identifier(
    settings: Identity,
    *,
    max_token: int,
    http: httpx.AsyncClient | None,
    clock: Callable[[], float] = time.time,
    realm: str = "edge",
) -> Identifier:
    """The identifier for `settings`. `clock` is Unix time; `realm` is shown in challenges.

    `http` fetches keys; it may be None where there is no `jwks_url`.

    Raises ValueError for a key file that cannot be used and for an algorithm that nobody implements.
    """
    challenge = Challenge(realm)
    match settings:
        case JwtIdentity():
            keys = KeyRing(_source(settings, http), refresh_s=settings.jwks_refresh_s)
            return JwtIdentifier(settings, keys=keys, challenge=challenge, max_token=max_token, clock=clock)
        case OpaqueIdentity():
            return OpaqueIdentifier(challenge=challenge, max_token=max_token)
        case HeaderIdentity():
            return HeaderIdentifier(settings.name, challenge=challenge, max_value=max_token)


def _source(settings: JwtIdentity, http: httpx.AsyncClient | None) -> KeySource:
    if settings.jwks_url is not None and http is not None:
        return UrlSource(settings.jwks_url, settings.algorithms, http)
    if settings.jwks_file is not None:
        return FileSource(settings.jwks_file, settings.algorithms)
    raise ValueError("identity.jwt needs jwks_file, or jwks_url and a client to fetch it")
