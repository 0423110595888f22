"""`jwt`: tokens verified here (RFC 7519, RFC 8725), of one issuer or of several.

The order of the checks is the order of their cost: remembered? → well-formed? → issuer → header → claims → key →
signature. Bad tokens are therefore 401 also while there are no keys, and only a token that could be good ever waits for
keys. The token's `iss` chooses the issuer, and nothing of another one is looked at: not its keys, not its algorithms.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from gateway.errors import GatewayError
from gateway.identity.claims import ClaimReader, Expected, TokenRefused, check_claims, check_header
from gateway.identity.credentials import Challenge, Tokens, well_formed
from gateway.identity.keys import VerificationKeys, algorithms_of
from gateway.identity.remembered import Remembered
from gateway.identity.verifier import Pinned, SignedToken, Verifier
from gateway.model.request import Request, Subject
from gateway.model.settings import JwtIssuer

MAX_REMEMBERED_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Issuer:
    """One issuer: what its tokens must say, what is made of them, and its keys."""

    expected: Expected
    reader: ClaimReader
    verifier: Verifier


class JwtIdentifier:
    """Signed token → Subject. `verifiers` are the issuers' own, in their order."""

    def __init__(
        self,
        issuers: Sequence[JwtIssuer],
        verifiers: Sequence[Verifier],
        *,
        tokens: Tokens,
        challenge: Challenge,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuers = {
            each.issuer: _Issuer(
                Expected(each.issuer, frozenset(each.audience), frozenset(each.algorithms), each.leeway_s),
                ClaimReader(each.rules, source=each.issuer),
                verifier,
            )
            for each, verifier in zip(issuers, verifiers, strict=True)
        }
        self._registry = Pinned(algorithms_of([name for each in issuers for name in each.algorithms]))
        self._tokens = tokens
        self._challenge = challenge
        self._clock = clock
        self._remembered = Remembered(MAX_REMEMBERED_BYTES, clock=clock, monotonic=monotonic)
        for verifier in verifiers:
            verifier.listen(self._keys_changed)

    async def identify(self, request: Request) -> Subject:
        """See Identifier."""
        token = self._tokens.of(request)
        digest = sha256(token).digest()
        subject = self._remembered.get(digest)
        if subject is not None:
            return subject
        return await self._verify(token, digest)

    def late(self) -> GatewayError:
        """See Identifier."""
        verifiers = [issuer.verifier for issuer in self._issuers.values()]
        return next((verifier for verifier in verifiers if verifier.keys.fetching), verifiers[0]).late()

    async def aclose(self) -> None:
        """Hear of no more keys. The verifiers are closed by whoever made them."""
        for issuer in self._issuers.values():
            issuer.verifier.unlisten(self._keys_changed)

    async def _verify(self, token: bytes, digest: bytes) -> Subject:
        try:
            signed, issuer = self._checked(token)
            proof = await issuer.verifier.proof(digest, signed)
            subject = issuer.reader.subject(signed.claims, signed.claims["exp"] + issuer.expected.leeway_s)
        except TokenRefused as refused:
            raise self._challenge.invalid(str(refused)) from None
        if lacking := issuer.reader.lacks(signed.claims):
            raise self._challenge.insufficient(*lacking)
        until_s = signed.claims["exp"] + issuer.expected.leeway_s
        self._remembered.put(digest, subject, until_s, signed.payload, (issuer.verifier, proof))
        return subject

    def _checked(self, token: bytes) -> tuple[SignedToken, _Issuer]:
        if not well_formed(token):
            raise TokenRefused("The token is malformed.")
        signed = SignedToken(token, self._registry)
        issuer = self._issuer(signed)
        check_header(signed.header, issuer.expected.algorithms)
        check_claims(signed.claims, issuer.expected, self._clock())
        return signed, issuer

    def _issuer(self, signed: SignedToken) -> _Issuer:
        if not isinstance(signed.claims, dict):
            raise TokenRefused("The token is malformed.")
        name = signed.claims.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise TokenRefused("The token has another issuer.")
        return issuer

    def _keys_changed(self, verifier: Verifier, valid: VerificationKeys) -> None:
        self._remembered.keep(lambda proof: proof[0] is not verifier or valid.holds(proof[1]))
