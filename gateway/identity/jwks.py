"""Where keys come from: a file or a URL. Each is asked by the key ring, which decides when.

Rules for a URL: one GET, five seconds in all, no redirects (a redirect would let whoever answers there name the keys),
200 only, at most 1 MiB, no content coding. A file is read again only when it is another one than before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import httpx

from gateway.identity.keys import MAX_DOCUMENT_BYTES, KeysUnusable, VerificationKeys, algorithms_of, parse
from gateway.upstream.transport import cause_of

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
