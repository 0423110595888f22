"""Which key may verify which token, and where keys come from: a file or a URL."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import JWKRegistry, Key, OctKey, RSAKey

from gateway.identity import strict_json
from gateway.upstream.transport import cause_of

# Rules: a key serves an algorithm only if its type, curve, `use`, `key_ops` and `alg` all fit, so a public key can
# never be taken for an HMAC secret; what is not understood is left out (RFC 7517 section 5); RSA below 2048 bits and
# HMAC secrets shorter than their hash are left out (RFC 7518 sections 3.2, 3.3).

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


# Where keys come from: a file or a URL. Each is asked by the key ring, which decides when.
#
# Rules for a URL: one GET, five seconds in all, no redirects (a redirect would let whoever answers there name the
# keys), 200 only, at most 1 MiB, no content coding. A file is read again only when it is another one than before.

_TIMEOUT_S: Final = 5.0
_TIMEOUTS: Final = httpx.Timeout(0.9 * _TIMEOUT_S)  # ends first, so that the cause is told
_OK: Final = 200

_Stamp = tuple[int, int, int]


class KeySource(Protocol):
    """Loads the keys that are valid now."""

    name: str
    initial: VerificationKeys | None

    async def load(self) -> VerificationKeys:
        """The keys. Raises KeysUnusable, whose text says why and holds no secret."""


class FileSource:
    """A JWK Set in a file."""

    def __init__(self, path: Path, algorithms: Sequence[str]) -> None:
        """Read the file. Raises ValueError: a gateway that cannot verify anybody does not start."""
        self.name = str(path)
        self._path = path
        self._algorithms = algorithms_of(algorithms)
        try:
            self._stamp, document = _read_other(path, None)
            self._keys = parse(document, self._algorithms)
        except KeysUnusable as error:
            raise ValueError(f"identity.jwt.jwks_file {path}: {error}") from None
        self.initial: VerificationKeys | None = self._keys

    async def load(self) -> VerificationKeys:
        """See KeySource."""
        stamp, document = await asyncio.to_thread(_read_other, self._path, self._stamp)
        if stamp != self._stamp:
            self._keys = parse(document, self._algorithms)
            self._stamp = stamp
        return self._keys


def _read_other(path: Path, before: _Stamp | None) -> tuple[_Stamp, bytes]:
    """The file's stamp and, unless it is the one of before, its content. The stamp is taken first: never too new."""
    try:
        found = path.stat()
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp == before:
            return stamp, b""
        with path.open("rb") as file:
            return stamp, file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise KeysUnusable(error.strerror or type(error).__name__) from None


class UrlSource:
    """A JWK Set at a URL."""

    initial: VerificationKeys | None = None

    def __init__(self, url: str, algorithms: Sequence[str], http: httpx.AsyncClient) -> None:
        self.name = shown(url)
        self._url = url
        self._algorithms = algorithms_of(algorithms)
        self._http = http

    async def load(self) -> VerificationKeys:
        """See KeySource."""
        return parse(await fetch(self._http, self._url), self._algorithms)


def shown(url: str) -> str:
    """The URL without what may be a secret."""
    return str(httpx.URL(url).copy_with(username="", password="", query=None, fragment=None))


async def fetch(http: httpx.AsyncClient, url: str) -> bytes:
    """The document at a URL. Raises KeysUnusable, which says why there is none."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return await _fetch(http, url)
    except KeysUnusable:
        raise
    except TimeoutError:
        raise KeysUnusable(f"no complete answer within {_TIMEOUT_S:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
        raise KeysUnusable(cause_of(error)) from None


async def _fetch(http: httpx.AsyncClient, url: str) -> bytes:
    headers = {"accept": "application/jwk-set+json, application/json", "accept-encoding": "identity"}
    async with http.stream("GET", url, headers=headers, timeout=_TIMEOUTS, follow_redirects=False) as response:
        if response.status_code != _OK:
            raise KeysUnusable(f"answered {response.status_code}")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise KeysUnusable("answered with a content coding that was not asked for")
        return await _read_limited(response)


async def _read_limited(response: httpx.Response) -> bytes:
    document = bytearray()
    async for chunk in response.aiter_bytes():
        document += chunk
        if len(document) > MAX_DOCUMENT_BYTES:
            raise KeysUnusable("the document is larger than 1 MiB")
    return bytes(document)
