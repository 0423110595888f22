"""Keeps the keys that verify tokens: found, kept fresh, and kept while the issuer is down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from joserfc.jwk import Key

from gateway.errors import GatewayError
from gateway.identity import strict_json
from gateway.identity.keys import KeySource, KeysUnusable, VerificationKeys, algorithms_of, fetch, parse, shown

# Times are monotonic. Deliberately absent: the issuer's caching headers. `jwks_refresh` alone says how old keys may be.

_log = logging.getLogger("gateway.identity")

_QUIET_S: Final = 10.0
_BACKOFF_S: Final = 1.0
_BACKOFF_MAX_S: Final = 60.0
_MAX_DOUBLINGS: Final = 10
_MAX_FETCHES: Final = 2
_MAX_WAITING: Final = 500


class KeyRing:
    """The current keys of one source."""

    def __init__(
        self,
        source: KeySource,
        *,
        refresh_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._source = source
        self._refresh_s = refresh_s
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._keys = source.initial
        self._latest = source.initial
        self._changed: Callable[[VerificationKeys], None] = lambda _: None
        self._fetch: asyncio.Task[None] | None = None
        self._refresher: asyncio.Task[None] | None = None
        self._failures = 0
        self._failure = "not asked yet"
        self._next_fetch_s = 0.0
        self._quiet_until_s = 0.0
        self._waiting = 0

    def on_change(self, changed: Callable[[VerificationKeys], None]) -> None:
        """Call `changed` with the keys whenever other ones become valid."""
        self._changed = changed

    def start(self) -> None:
        """Begin to keep the keys fresh, if a loop is running; otherwise the first request that needs them does."""
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            if self._refresher is None or self._refresher.done():
                self._refresher = asyncio.create_task(self._keep_fresh())

    @property
    def fetching(self) -> bool:
        """Whether an answer of the source is being waited for."""
        return self._fetch is not None and not self._fetch.done()

    def update(self, refresh_s: float) -> None:
        """Fetch the keys so often from now on."""
        if refresh_s == self._refresh_s:
            return
        self._refresh_s = refresh_s
        self._next_fetch_s = min(self._next_fetch_s, self._clock() + refresh_s)
        if self._refresher is not None:  # it sleeps by the time of before
            self._refresher.cancel()
            self._refresher = None
            self.start()

    async def find(self, kid: str | None, algorithm: str) -> tuple[Key, ...]:
        """The keys to try now, perhaps none. Raises `identity_unavailable` while there never were any."""
        self.start()
        keys = self._keys or await self._first_keys()
        return keys.find(kid, algorithm)

    async def look_up(self, verifies: Callable[[VerificationKeys], bool]) -> bool:
        """Whether the source has keys by now that `verifies` is content with; then they are the valid ones.

        Raises `identity_unavailable` where too many wait for that already.
        """
        # Forged tokens and an issuer that hangs must not use up the places of everybody else.
        if self._waiting >= _MAX_WAITING:
            raise self._unavailable(f"{_MAX_WAITING} requests wait for keys from {self._source.name}")
        self._waiting += 1
        try:
            return await self._looked_up(verifies)
        finally:
            self._waiting -= 1

    def late(self) -> GatewayError:
        """What to tell a caller whose deadline ended while it waited for keys."""
        return self._unavailable(f"keys from {self._source.name} did not come within the deadline")

    async def aclose(self) -> None:
        """End background work."""
        tasks = [task for task in (self._refresher, self._fetch) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _looked_up(self, verifies: Callable[[VerificationKeys], bool]) -> bool:
        for _ in range(_MAX_FETCHES):
            joined = self.fetching
            # Forged tokens must not hammer the issuer.
            if not joined and self._clock() < self._quiet_until_s:
                return False
            before = self._latest
            await asyncio.shield(self._fetching(regular=False))
            if self._latest is not None and verifies(self._latest):
                self._replace(self._latest)
                return True
            # A second fetch only after other keys, or one begun before: an issuer's nodes may differ.
            if self._latest is before and not joined:
                break
        if self._keys is not None and self._latest is not None:
            # It verified nothing, so it only adds keys: a forged token cannot take a known one away.
            self._replace(self._keys.and_new_ones_of(self._latest))
        self._quiet_until_s = self._clock() + _QUIET_S
        return False

    async def _first_keys(self) -> VerificationKeys:
        wait_s = self._next_fetch_s - self._clock()
        # After a failed fetch nobody waits until the next one is due.
        if wait_s <= 0 or self.fetching:
            await asyncio.shield(self._fetching())
        if self._keys is None:
            raise self._unavailable(f"no keys from {self._source.name}: {self._failure}")
        return self._keys

    def _unavailable(self, reason: str) -> GatewayError:
        return GatewayError(
            "identity_unavailable",
            "The keys to verify tokens are not available yet.",
            retry_after_s=max(0.0, self._next_fetch_s - self._clock()) if self._failures else None,
            reason=reason,
        )

    def _fetching(self, *, regular: bool = True) -> asyncio.Task[None]:
        # One fetch at a time; whoever needs its outcome waits for the same one.
        if self._fetch is None or self._fetch.done():
            self._fetch = asyncio.create_task(self._load(regular=regular))
        return self._fetch

    async def _load(self, *, regular: bool) -> None:
        try:
            keys = await self._source.load()
        # Keys are never replaced by a document without a usable key.
        except KeysUnusable as error:
            self._failed(error)
            return
        if keys != self._latest:
            self._latest = keys
        self._failures = 0
        if regular or self._keys is None:
            self._replace(keys)
            self._next_fetch_s = self._clock() + self._refresh_s * (1 - self._jitter() / 10)

    def _failed(self, error: KeysUnusable) -> None:
        self._next_fetch_s = self._clock() + min(_BACKOFF_MAX_S, _BACKOFF_S * 2**self._failures)
        self._failures = min(self._failures + 1, _MAX_DOUBLINGS)
        self._failure = str(error)
        kept = f"keeping {self._keys.count} keys" if self._keys else "no token can be verified"
        _log.warning("[identity] Keys from %s not loaded: %s (%s)", self._source.name, error, kept)

    def _replace(self, keys: VerificationKeys) -> None:
        if keys == self._keys:
            return
        self._keys = keys
        self._changed(keys)
        _log.info("[identity] %d keys from %s", keys.count, self._source.name)

    async def _keep_fresh(self) -> None:
        if self._keys is not None:
            self._next_fetch_s = self._clock() + self._refresh_s * (1 - self._jitter() / 10)
        while True:
            wait_s = self._next_fetch_s - self._clock()
            if wait_s > 0:
                await self._sleep(wait_s)
            else:
                await asyncio.shield(self._fetching())


# Finds an issuer's keys by OpenID Connect Discovery 1.0 (or RFC 8414 metadata at the same place).
#
# Rules: `{issuer}/.well-known/openid-configuration` must name exactly the configured issuer (section 4.3), or whoever
# answers there could stand in for another; `jwks_uri` is https where the issuer is. The address of the keys is asked
# for again with every regular fetch and after a failure, not when a token's key is looked up: that costs one fetch,
# as with `jwks_url`. So it is good for a little less than the least time between two regular fetches.

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
