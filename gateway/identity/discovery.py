"""Finds an issuer's keys by OpenID Connect Discovery 1.0 (or RFC 8414 metadata at the same place).

Rules: `{issuer}/.well-known/openid-configuration` must name exactly the configured issuer (section 4.3), or whoever
answers there could stand in for another; `jwks_uri` is https where the issuer is. The address of the keys is asked for
again with every regular fetch and after a failure, not when a token's key is looked up: that costs one fetch, as with
`jwks_url`. So it is good for a little less than the least time between two regular fetches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from gateway.identity import strict_json
from gateway.identity.jwks import fetch, shown
from gateway.identity.keys import KeysUnusable, VerificationKeys, algorithms_of, parse

WELL_KNOWN: Final = "/.well-known/openid-configuration"
_GOOD_FOR: Final = 0.85
"""Of `jwks_refresh`; the key ring waits for 0.9 of it at least."""

Clients = Callable[[str], httpx.AsyncClient]
"""The client for the origin of a URL."""


class DiscoverySource:
    """The JWK Set that an issuer's metadata points to. `clock` is monotonic."""

    initial: VerificationKeys | None = None

    def __init__(
        self,
        issuer: str,
        algorithms: Sequence[str],
        clients: Clients,
        *,
        refresh_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._metadata_url = issuer.removesuffix("/") + WELL_KNOWN
        self.name = shown(self._metadata_url)
        self._algorithms = algorithms_of(algorithms)
        self._clients = clients
        self._good_for_s = refresh_s * _GOOD_FOR
        self._clock = clock
        self._keys_url: str | None = None
        self._found_s = 0.0

    async def load(self) -> VerificationKeys:
        """See KeySource."""
        if self._keys_url is None or self._clock() - self._found_s >= self._good_for_s:
            self._keys_url = await self._discovered()
            self._found_s = self._clock()
        url = self._keys_url
        try:
            return parse(await fetch(self._clients(url), url), self._algorithms)
        except KeysUnusable as error:
            self._keys_url = None
            raise KeysUnusable(f"{shown(url)}: {error}") from None

    async def _discovered(self) -> str:
        document = await fetch(self._clients(self._metadata_url), self._metadata_url)
        try:
            metadata: Any = strict_json.loads(document)
        except ValueError as error:
            raise KeysUnusable(f"not a JSON document: {error}") from None
        if not isinstance(metadata, dict) or metadata.get("issuer") != self._issuer:
            raise KeysUnusable("the metadata names another issuer than identity.jwt.issuer")
        return self._address(metadata.get("jwks_uri"))

    def _address(self, url: Any) -> str:
        """`jwks_uri`, checked: it comes from a document, not from the configuration."""
        try:
            parts = urlsplit(url if isinstance(url, str) else "")
            sound = bool(parts.hostname) and "@" not in parts.netloc and (parts.port or 1) > 0
        except ValueError:
            sound = False
        schemes = ("https",) if self._issuer.startswith("https:") else ("https", "http")
        if not sound or parts.scheme not in schemes:
            raise KeysUnusable("the metadata has no usable jwks_uri")
        return str(url)
