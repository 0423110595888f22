"""`jwt`: tokens verified here (RFC 7519, RFC 8725).

The order of the checks is the order of their cost: remembered? → well-formed? → header → claims → key → signature. Bad
tokens are therefore 401 also while there are no keys, and only a token that could be good ever waits for keys.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.identity.bearer import Challenge, bearer_token, well_formed
from gateway.identity.claims import Expected, TokenRefused, check_claims, check_header
from gateway.identity.key_ring import KeyRing
from gateway.identity.keys import Proof, VerificationKeys, algorithms_of, proof_of
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
        keys.on_change(lambda valid: self._remembered.keep(valid.holds))
        keys.start()

    async def identify(self, request: Request) -> Subject:
        """See Identifier."""
        token = bearer_token(request, self._challenge, self._max_token)
        digest = sha256(token).digest()
        subject = self._remembered.get(digest)
        if subject is not None:
            return subject
        return await self._verify(token, digest)

    def late(self) -> GatewayError:
        """See Identifier."""
        return self._keys.late()

    async def aclose(self) -> None:
        """End the refreshing of keys."""
        await self._keys.aclose()

    async def _verify(self, token: bytes, digest: bytes) -> Subject:
        try:
            signed = self._checked(token)
            proof = await self._proof(signed)
        except TokenRefused as refused:
            raise self._refusal(refused) from None
        subject = self._subject(signed.claims)
        self._remembered.put(digest, subject, self._ends_s(signed.claims), proof)
        return subject

    def _checked(self, token: bytes) -> SignedToken:
        if not well_formed(token):
            raise TokenRefused("The token is malformed.")
        signed = SignedToken(token, self._registry)
        check_header(signed.header, self._expected.algorithms)
        check_claims(signed.claims, self._expected, self._clock())
        return signed

    async def _proof(self, signed: SignedToken) -> Proof:
        """Which key made the signature. The issuer may sign with one that is not known here yet."""
        kid, algorithm = signed.header.get("kid"), signed.header["alg"]
        made_by = signed.verified_by(await self._keys.find(kid, algorithm))

        def verifies(keys: VerificationKeys) -> bool:
            nonlocal made_by
            made_by = signed.verified_by(keys.find(kid, algorithm))
            return made_by is not None

        if made_by is None:
            await self._keys.look_up(verifies)
        if made_by is None:
            raise TokenRefused("No known key made the signature of the token.")
        return proof_of(made_by, algorithm)

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
