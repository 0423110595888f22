"""Tokens that were verified, so that the next request with one costs a hash and a look-up.

Rules: the key is the token's SHA-256, never the token; an entry ends with the token, by the wall clock and also by the
monotonic one, so that a clock set back revives nobody; least recently used ones go first; what a key verified is
forgotten with the key, and nothing else when keys change.
Refused tokens are not remembered: a client could fill memory with them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from gateway.identity.keys import Proof
from gateway.model.subject import Subject


class Remembered:
    """At most `limit` subjects by the digest of their token. `clock` is Unix time, `monotonic` never goes back."""

    __slots__ = ("_clock", "_entries", "_limit", "_monotonic")

    def __init__(self, limit: int, *, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._monotonic = monotonic
        self._entries: OrderedDict[bytes, tuple[Subject, float, float, Proof]] = OrderedDict()

    def get(self, digest: bytes) -> Subject | None:
        """The subject, unless its token has ended."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        subject, until_s, until_monotonic_s, _ = entry
        if self._clock() >= until_s or self._monotonic() >= until_monotonic_s:
            del self._entries[digest]
            return None
        self._entries.move_to_end(digest)
        return subject

    def put(self, digest: bytes, subject: Subject, until_s: float, proof: Proof) -> None:
        """Remember `subject` until the Unix time `until_s`; `proof` says which key verified its token."""
        left_s = until_s - self._clock()
        self._entries[digest] = (subject, until_s, self._monotonic() + left_s, proof)
        self._entries.move_to_end(digest)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def keep(self, holds: Callable[[Proof], bool]) -> None:
        """Forget what was verified by keys that are none any more."""
        for digest in [digest for digest, entry in self._entries.items() if not holds(entry[3])]:
            del self._entries[digest]

    def __len__(self) -> int:
        return len(self._entries)
