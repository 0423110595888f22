"""Keeps the keys that verify tokens: fetched once for everybody, kept fresh, and kept while the issuer is down.

Rules:

1. One fetch at a time; whoever needs its outcome waits for the same one, and leaving never cancels it.
2. A request waits only when there are no keys yet, or when its token names an unknown key. After a fetch that failed
   nobody waits until the next one is due (1 s, doubling to 60 s).
3. An unknown key makes one fetch. If that brings nothing new, no other is made for such a reason for 10 s, so that
   forged tokens cannot hammer the issuer; one that did bring something new leaves the way open for the next rotation.
4. Keys are replaced as a whole by a document with at least one usable key, and never dropped for lack of one.

Times are monotonic. Deliberately absent: caching headers of the issuer; `jwks_refresh` alone says how old keys may be.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from joserfc.jwk import Key

from gateway.errors import GatewayError
from gateway.identity.jwks import KeySource
from gateway.identity.keys import KeysUnusable, VerificationKeys

_log = logging.getLogger("gateway.identity")

_QUIET_S: Final = 10.0
_BACKOFF_S: Final = 1.0
_BACKOFF_MAX_S: Final = 60.0
_MAX_DOUBLINGS: Final = 10


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
        self._changed: Callable[[], None] = lambda: None
        self._fetch: asyncio.Task[None] | None = None
        self._refresher: asyncio.Task[None] | None = None
        self._failures = 0
        self._next_fetch_s = 0.0
        self._quiet_until_s = 0.0

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever other keys become the valid ones."""
        self._changed = changed

    def start(self) -> None:
        """Begin to keep the keys fresh, if a loop is running; otherwise the first request that needs them does."""
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            if self._refresher is None or self._refresher.done():
                self._refresher = asyncio.create_task(self._keep_fresh())

    async def find(self, kid: str | None, algorithm: str) -> tuple[Key, ...]:
        """The keys to try now, perhaps none. Raises `identity_unavailable` while there never were any."""
        self.start()
        keys = self._keys or await self._first_keys()
        return keys.find(kid, algorithm)

    async def look_again(self) -> bool:
        """Whether the source has other keys than a moment ago (rule 3)."""
        before = self._keys
        if self._fetch is not None and not self._fetch.done():
            # Begun for another reason, perhaps before the issuer had its new key.
            await asyncio.shield(self._fetch)
        if self._keys is before and self._clock() >= self._quiet_until_s:
            await asyncio.shield(self._fetching(quiet_s=_QUIET_S))
        return self._keys is not before

    async def aclose(self) -> None:
        """End background work."""
        tasks = [task for task in (self._refresher, self._fetch) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _first_keys(self) -> VerificationKeys:
        wait_s = self._next_fetch_s - self._clock()
        if wait_s <= 0 or (self._fetch is not None and not self._fetch.done()):
            await asyncio.shield(self._fetching())
        if self._keys is None:
            raise GatewayError(
                "identity_unavailable",
                "The keys to verify tokens are not available yet.",
                retry_after_s=max(0.0, self._next_fetch_s - self._clock()),
            )
        return self._keys

    def _fetching(self, *, quiet_s: float = 0.0) -> asyncio.Task[None]:
        if self._fetch is None or self._fetch.done():
            self._fetch = asyncio.create_task(self._load(quiet_s))
        return self._fetch

    async def _load(self, quiet_s: float) -> None:
        try:
            keys = await self._source.load()
        except KeysUnusable as error:
            self._failed(error)
        else:
            if self._loaded(keys):
                return
        self._quiet_until_s = max(self._quiet_until_s, self._clock() + quiet_s)

    def _failed(self, error: KeysUnusable) -> None:
        self._next_fetch_s = self._clock() + min(_BACKOFF_MAX_S, _BACKOFF_S * 2**self._failures)
        self._failures = min(self._failures + 1, _MAX_DOUBLINGS)
        kept = f"keeping {self._keys.count} keys" if self._keys else "no token can be verified"
        _log.warning("[identity] Keys from %s not loaded: %s (%s)", self._source.name, error, kept)

    def _loaded(self, keys: VerificationKeys) -> bool:
        """Take over `keys`; whether they are other ones."""
        self._failures = 0
        self._next_fetch_s = self._clock() + self._refresh_s * (1 - self._jitter() / 10)
        if keys == self._keys:
            return False
        self._keys = keys
        self._changed()
        _log.info("[identity] %d keys from %s", keys.count, self._source.name)
        return True

    async def _keep_fresh(self) -> None:
        if self._keys is not None:
            self._next_fetch_s = self._clock() + self._refresh_s * (1 - self._jitter() / 10)
        while True:
            wait_s = self._next_fetch_s - self._clock()
            if wait_s > 0:
                await self._sleep(wait_s)
            else:
                await asyncio.shield(self._fetching())
