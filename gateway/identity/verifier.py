"""Signatures of tokens: taken apart, verified with the issuer's keys, remembered when they were good."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import Key
from joserfc.util import urlsafe_b64decode

from gateway.errors import GatewayError
from gateway.identity import strict_json
from gateway.identity.claims import TokenRefused
from gateway.identity.key_ring import KeyRing
from gateway.identity.keys import Proof, VerificationKeys, proof_of

# One token in JWS compact serialization (RFC 7515 section 7.1): taken apart strictly, then verified with given keys.
#
# Rules: three segments, base64url without padding or stray bits, so that one token has one spelling; strict JSON. JWE
# and nested tokens are not understood. The algorithms are the configured ones, whatever joserfc recommends or warns
# of.

_MAX_SEGMENT_BYTES: Final = 64 * 1024
"""Only a second fence: `max_token` was checked long before."""


class Pinned(jws.JWSRegistry):
    """joserfc's registry with exactly the configured algorithms, looked up without its warnings."""

    max_header_length = _MAX_SEGMENT_BYTES
    max_payload_length = _MAX_SEGMENT_BYTES
    max_signature_length = _MAX_SEGMENT_BYTES

    def __init__(self, algorithms: Mapping[str, JWSAlgModel]) -> None:
        super().__init__(strict_check_header=False)
        self._pinned = dict(algorithms)

    def get_alg(self, name: str) -> JWSAlgModel:
        """The algorithm, which `claims.check_header` has found to be a configured one."""
        return self._pinned[name]


class SignedToken:
    """Header and claims of a token that nobody has verified yet."""

    __slots__ = ("_compact", "_registry", "claims", "header", "payload")

    def __init__(self, token: bytes, registry: Pinned) -> None:
        """Raises TokenRefused for everything that is not a strictly encoded, signed JWT."""
        self._registry = registry
        try:
            self._compact = jws.extract_compact(token, registry=registry)
            self.header: Any = strict_json.loads(urlsafe_b64decode(self._compact.segments["header"]))
            self.payload: bytes = self._compact.payload
            self.claims: Any = strict_json.loads(self.payload)
        except (JoseError, ValueError, RecursionError):
            raise TokenRefused("The token is malformed.") from None

    def verified_by(self, keys: Sequence[Key]) -> Key | None:
        """The one of the keys that made the signature."""
        return next((key for key in keys if self._verified_by(key)), None)

    def _verified_by(self, key: Key) -> bool:
        try:
            return jws.validate_compact(self._compact, key, registry=self._registry)
        except (JoseError, ValueError):
            return False


# Rules: kept by issuer, source of keys and algorithms, so a reload that changes anything else verifies no token twice
# and needs no key anew. A signature is remembered by the token's SHA-256 with the key that made it, and is forgotten
# with that key. Nothing here says that a token is good: audience, times, `required` and subject are judged by whoever
# asks.

_MAX_SIGNATURES: Final = 50_000
"""About 10 MB: a digest and which key, no token and no claim."""

Changed = Callable[["Verifier", VerificationKeys], None]


class Verifier:
    """Verifies the tokens of one issuer."""

    def __init__(self, keys: KeyRing) -> None:
        self.keys = keys
        self._signatures: OrderedDict[bytes, Proof] = OrderedDict()
        self._listeners: list[Changed] = []
        keys.on_change(self._changed)
        keys.start()

    def __len__(self) -> int:
        return len(self._signatures)

    def listen(self, changed: Changed) -> None:
        """Call `changed` with the valid keys whenever others become so, until `unlisten`."""
        self._listeners.append(changed)

    def unlisten(self, changed: Changed) -> None:
        """Tell `changed` no more."""
        if changed in self._listeners:
            self._listeners.remove(changed)

    def late(self) -> GatewayError:
        """What to tell a caller whose deadline ended while it waited for keys."""
        return self.keys.late()

    async def proof(self, digest: bytes, signed: SignedToken) -> Proof:
        """Which key made the signature. Raises TokenRefused, or `identity_unavailable` while there never were keys."""
        known = self._signatures.get(digest)
        if known is not None:
            self._signatures.move_to_end(digest)
            return known
        proof = self._signatures[digest] = await self._verified(signed)
        if len(self._signatures) > _MAX_SIGNATURES:
            self._signatures.popitem(last=False)
        return proof

    async def aclose(self) -> None:
        """End the refreshing of keys."""
        await self.keys.aclose()

    async def _verified(self, signed: SignedToken) -> Proof:
        kid, algorithm = signed.header.get("kid"), signed.header["alg"]
        made_by = signed.verified_by(await self.keys.find(kid, algorithm))

        def verifies(keys: VerificationKeys) -> bool:
            nonlocal made_by
            made_by = signed.verified_by(keys.find(kid, algorithm))
            return made_by is not None

        if made_by is None:  # The issuer may sign with a key that is not known here yet.
            await self.keys.look_up(verifies)
        if made_by is None:
            raise TokenRefused("No known key made the signature of the token.")
        return proof_of(made_by, algorithm)

    def _changed(self, valid: VerificationKeys) -> None:
        for digest in [digest for digest, proof in self._signatures.items() if not valid.holds(proof)]:
            del self._signatures[digest]
        for changed in self._listeners:
            changed(self, valid)
