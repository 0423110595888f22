"""One token in JWS compact serialization (RFC 7515 section 7.1): taken apart strictly, then verified with given keys.

Rules: three segments, base64url without padding or stray bits, so that one token has one spelling; strict JSON. JWE and
nested tokens are not understood. The algorithms are the configured ones, whatever joserfc recommends or warns of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import Key
from joserfc.util import urlsafe_b64decode

from gateway.identity import strict_json
from gateway.identity.claims import TokenRefused

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
