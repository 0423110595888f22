"""How much at once: a count with a ceiling. Over it the answer is no, at once; nobody waits here."""

from __future__ import annotations


class ConcurrencyLimit:
    """At most `limit` at the same time. `limit` may be changed by a reload; what is in use stays.

    `by_caller` is what each caller has of it, where that is counted.
    """

    __slots__ = ("by_caller", "in_use", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0
        self.by_caller: dict[str, int] = {}

    def try_acquire(self) -> bool:
        """Take a place if there is one. Each True is followed by exactly one `release`."""
        if self.in_use >= self.limit:
            return False
        self.in_use += 1
        return True

    def release(self) -> None:
        """Give the place back."""
        self.in_use -= 1
