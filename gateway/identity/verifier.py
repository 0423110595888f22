"""Signatures of tokens: taken apart, verified with the issuer's keys, remembered when they were good."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

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
from gateway.model.request import Subject

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

    __slots__ = ("_registry", "_signed", "claims", "header", "payload")

    def __init__(self, token: bytes, registry: Pinned) -> None:
        """Raises TokenRefused for everything that is not a strictly encoded, signed JWT."""
        self._registry = registry
        try:
            self._signed = jws.extract_compact(token, registry=registry)
            self.header: Any = strict_json.loads(urlsafe_b64decode(self._signed.segments["header"]))
            self.payload: bytes = self._signed.payload
            self.claims: Any = strict_json.loads(self.payload)
        except (JoseError, ValueError, RecursionError):
            raise TokenRefused("The token is malformed.") from None

    def verified_by(self, keys: Sequence[Key]) -> Key | None:
        """The one of the keys that made the signature."""
        return next((key for key in keys if self._verified_by(key)), None)

    def _verified_by(self, key: Key) -> bool:
        try:
            return jws.validate_compact(self._signed, key, registry=self._registry)
        except (JoseError, ValueError):
            return False


# Tokens that were found good, so that the next request with one costs a hash and a look-up.
#
# Rules: the key is the token's SHA-256, never the token; an entry ends with the token, by the wall clock and also by
# the monotonic one, so that a clock set back revives nobody; least recently used ones go first; what a key verified
# is forgotten with the key. Refused tokens are not remembered: a client could fill memory with them. Bounded in
# bytes, by what claims written like that are found to hold once they are read.

_BYTES_EACH: Final = 2500
_BYTES_PER_VALUE: Final = 80
"""Measured: what a subject holds, and what each value, list and object of its claims does beside its text."""


class _Entry(NamedTuple):
    subject: Subject
    until_s: float
    until_monotonic_s: float
    proof: Any
    size: int


class Remembered:
    """Subjects by the digest of their token. `clock` is Unix time, `monotonic` never goes back."""

    __slots__ = ("_clock", "_entries", "_max_bytes", "_monotonic", "held_bytes")

    def __init__(self, max_bytes: int, *, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._monotonic = monotonic
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self.held_bytes = 0

    def get(self, digest: bytes) -> Subject | None:
        """The subject, unless its token has ended."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        subject, until_s, until_monotonic_s, _, _ = entry
        if self._clock() >= until_s or self._monotonic() >= until_monotonic_s:
            self._forget(digest)
            return None
        self._entries.move_to_end(digest)
        return subject

    def put(self, digest: bytes, subject: Subject, until_s: float, claims: bytes, proof: Any = None) -> None:
        """Remember `subject` until the Unix time `until_s`; `claims` is the JSON text that it was made of.

        `proof` says what made the token good (see `keep`).
        """
        self._forget(digest)
        until_monotonic_s = self._monotonic() + until_s - self._clock()
        values = claims.count(b",") + claims.count(b"[") + claims.count(b"{")
        size = _BYTES_EACH + len(claims) + _BYTES_PER_VALUE * values
        self._entries[digest] = _Entry(subject, until_s, until_monotonic_s, proof, size)
        self.held_bytes += size
        while self.held_bytes > self._max_bytes:
            self._forget(next(iter(self._entries)))

    def keep(self, holds: Callable[[Any], bool]) -> None:
        """Forget those whose proof does not hold any more."""
        for digest in [digest for digest, entry in self._entries.items() if not holds(entry.proof)]:
            self._forget(digest)

    def _forget(self, digest: bytes) -> None:
        entry = self._entries.pop(digest, None)
        if entry is not None:
            self.held_bytes -= entry.size

    def __len__(self) -> int:
        return len(self._entries)


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
