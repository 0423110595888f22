"""Tokens that were found good, so that the next request with one costs a hash and a look-up."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from gateway.model.request import Subject

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
        # By both clocks, so that a wall clock set back revives nobody.
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
        # By the token's hash, and never a refused one: a client could fill memory with them.
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
