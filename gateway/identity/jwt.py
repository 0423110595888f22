"""`jwt`: tokens verified here (RFC 7519, RFC 8725).

The order of the checks is the order of their cost: remembered? → well-formed? → header → claims → key → signature. Bad
tokens are therefore 401 also while there are no keys, and only a token that could be good ever waits for keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final

from joserfc.jwk import Key

from gateway.errors import GatewayError
from gateway.identity.bearer import Challenge, bearer_token, well_formed
from gateway.identity.claims import Expected, TokenRefused, check_claims, check_header
from gateway.identity.key_ring import KeyRing
from gateway.identity.keys import algorithms_of
from gateway.identity.remembered import Remembered
from gateway.identity.signature import Pinned, SignedToken
from gateway.identity.subjects import identity
from gateway.model.request import Request
from gateway.model.settings import JwtIdentity
from gateway.model.subject import Subject

_MAX_REMEMBERED: Final = 10_000


class JwtIdentifier:
    """Signed bearer token → Subject of type `identity`."""

    def __init__(
        self,
        settings: JwtIdentity,
        *,
        keys: KeyRing,
        challenge: Challenge,
        max_token: int,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        algorithms = algorithms_of(settings.algorithms)
        self._expected = Expected(settings.issuer, settings.audience, frozenset(algorithms), settings.leeway_s)
        self._registry = Pinned(algorithms)
        self._properties = settings.claims
        self._keys = keys
        self._challenge = challenge
        self._max_token = max_token
        self._clock = clock
        self._remembered = Remembered(_MAX_REMEMBERED, clock=clock, monotonic=monotonic)
        keys.on_change(self._remembered.clear)
        keys.start()

    async def identify(self, request: Request) -> Subject:
        """See Identifier."""
        token = bearer_token(request, self._challenge, self._max_token)
        digest = sha256(token).digest()
        subject = self._remembered.get(digest)
        if subject is not None:
            return subject
        return await self._verify(token, digest)

    async def aclose(self) -> None:
        """End the refreshing of keys."""
        await self._keys.aclose()

    async def _verify(self, token: bytes, digest: bytes) -> Subject:
        try:
            signed = self._checked(token)
            await self._check_signature(signed)
        except TokenRefused as refused:
            raise self._refusal(refused) from None
        subject = self._subject(signed.claims)
        self._remembered.put(digest, subject, self._ends_s(signed.claims))
        return subject

    def _checked(self, token: bytes) -> SignedToken:
        if not well_formed(token):
            raise TokenRefused("The token is malformed.")
        signed = SignedToken(token, self._registry)
        check_header(signed.header, self._expected.algorithms)
        check_claims(signed.claims, self._expected, self._clock())
        return signed

    async def _check_signature(self, signed: SignedToken) -> None:
        kid, algorithm = signed.header.get("kid"), signed.header["alg"]
        keys = await self._keys.find(kid, algorithm)
        if signed.verified_by(keys):
            return
        # The issuer may have begun to sign with a key that is not known here yet. A known `kid` settles it.
        if kid is not None and keys:
            raise TokenRefused("The signature of the token is not good.")
        if not signed.verified_by(await self._newer_keys(kid, algorithm)):
            raise TokenRefused("No known key made the signature of the token.")

    async def _newer_keys(self, kid: str | None, algorithm: str) -> tuple[Key, ...]:
        # Keys that became known meanwhile may have been fetched before the issuer had this token's: then again.
        while await self._keys.look_again():
            if keys := await self._keys.find(kid, algorithm):
                return keys
        return ()

    def _subject(self, claims: Mapping[str, Any]) -> Subject:
        try:
            properties = {name: claims[name] for name in self._properties if name in claims}
            return identity(claims["sub"], properties, claims, self._ends_s(claims))
        except (ValueError, RecursionError):
            raise self._refusal(TokenRefused("The claims of the token cannot be passed on.")) from None

    def _ends_s(self, claims: Mapping[str, Any]) -> float:
        """When the token ends, here and for all that was done with it: `exp`, and how far clocks may differ."""
        return float(claims["exp"]) + self._expected.leeway_s

    def _refusal(self, refused: TokenRefused) -> GatewayError:
        return self._challenge.invalid(str(refused))
