"""Which key may verify which token: a JWK Set (RFC 7517) compiled to a table by key id and algorithm.

Rules: a key serves an algorithm only if its type, curve, `use`, `key_ops` and `alg` all fit, so a public key can never
be taken for an HMAC secret; what is not understood is left out (RFC 7517 section 5); RSA below 2048 bits and HMAC
secrets shorter than their hash are left out (RFC 7518 sections 3.2, 3.3).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import JWKRegistry, Key, OctKey, RSAKey

from gateway.identity import strict_json

MAX_DOCUMENT_BYTES: Final = 1024 * 1024
_MAX_KEYS: Final = 256
_MAX_TRIED: Final = 8
"""Keys tried for one token that names none: bounds what a forged token costs."""
_MIN_RSA_BITS: Final = 2048


class KeysUnusable(ValueError):
    """A document is not a JWK Set, or none of its keys serves a configured algorithm."""


def algorithms_of(names: Sequence[str]) -> dict[str, JWSAlgModel]:
    """The implementations of the configured algorithms. Raises ValueError for `none` and for unknown ones."""
    known = jws.JWSRegistry.algorithms
    for name in names:
        if name not in known or name == "none":
            raise ValueError(f"identity.jwt.algorithms: {name!r} is not a signature algorithm")
    return {name: known[name] for name in names}


Proof = tuple[str | None, str, str]
"""Which key made a signature: its id, the algorithm, its thumbprint (RFC 7638)."""


class VerificationKeys:
    """The usable keys of one JWK Set. Two of the same content are equal."""

    __slots__ = ("_algorithms", "_by_id", "_content", "_keys", "count")

    def __init__(self, keys: Sequence[Key], algorithms: dict[str, JWSAlgModel]) -> None:
        self._keys = tuple(keys)
        self._algorithms = algorithms
        self._by_id: dict[tuple[str | None, str], tuple[Key, ...]] = {}
        self._content: set[Proof] = set()
        for key in keys:
            for name, algorithm in algorithms.items():
                if _serves(key, algorithm):
                    self._add(key, name)
        self.count = len({thumbprint for _, _, thumbprint in self._content})

    def _add(self, key: Key, algorithm: str) -> None:
        for kid in {key.kid, None}:
            self._by_id[kid, algorithm] = (*self._by_id.get((kid, algorithm), ()), key)
        self._content.add(proof_of(key, algorithm))

    def find(self, kid: str | None, algorithm: str) -> tuple[Key, ...]:
        """The keys to try, in the order of the document; for a token without `kid` at most eight that fit."""
        return self._by_id.get((kid, algorithm), ())[:_MAX_TRIED]

    def holds(self, proof: Proof) -> bool:
        """Whether the key of a proof is still one of these, under the same id."""
        return proof in self._content

    def and_new_ones_of(self, other: VerificationKeys) -> VerificationKeys:
        """These and those that only `other` has; just these where that would be too many."""
        new = [key for key in other._keys if not any(self.holds(proof_of(key, name)) for name in self._algorithms)]
        if not new or len(self._keys) + len(new) > _MAX_KEYS:
            return self
        return VerificationKeys((*self._keys, *new), self._algorithms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerificationKeys) and self._content == other._content

    __hash__ = None  # type: ignore[assignment]  # compared, never looked up


def proof_of(key: Key, algorithm: str) -> Proof:
    """What is remembered of the key that verified a token."""
    return (key.kid, algorithm, key.thumbprint())


def parse(document: bytes, algorithms: dict[str, JWSAlgModel]) -> VerificationKeys:
    """A JWK Set as bytes → keys. Raises KeysUnusable."""
    if len(document) > MAX_DOCUMENT_BYTES:
        raise KeysUnusable("the JWK Set is larger than 1 MiB")
    try:
        content = strict_json.loads(document)
    except ValueError as error:
        raise KeysUnusable(f"not a JSON document: {error}") from None
    entries = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
        raise KeysUnusable(f"not a JWK Set: `keys` must be a list of at most {_MAX_KEYS} keys")
    imported = [key for key in map(_import, entries) if key is not None]
    keys = VerificationKeys([key for key in imported if _serves_any(key, algorithms)], algorithms)
    if not keys.count:
        raise KeysUnusable(f"no key in it serves {', '.join(algorithms)}")
    return keys


def _import(entry: Any) -> Key | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("kid", ""), str):
        return None
    try:
        with warnings.catch_warnings():
            # A weak key is left out below, so nobody has to be warned of it.
            warnings.simplefilter("ignore")
            return JWKRegistry.import_key(entry)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        # A foreign document in a foreign parser: whatever it stumbles over, this entry is not a key.
        return None


def _serves_any(key: Key, algorithms: dict[str, JWSAlgModel]) -> bool:
    return any(_serves(key, algorithm) for algorithm in algorithms.values())


def _serves(key: Key, algorithm: JWSAlgModel) -> bool:
    try:
        algorithm.check_key(key)
        key.check_key_op("verify")
    except JoseError:
        return False
    if isinstance(key, RSAKey):
        return key.public_key.key_size >= _MIN_RSA_BITS
    if isinstance(key, OctKey):
        return len(key.raw_value) * 8 >= algorithm.algorithm_security
    return True
