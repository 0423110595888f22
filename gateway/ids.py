"""Random ids as hexadecimal digits: from the system's randomness, which is asked for many at a time.

Rule: no two processes share what was drawn: a fork draws anew.
"""

from __future__ import annotations

import os
from typing import Final

_BLOCK: Final = 2048
"""Bytes drawn at once, for some fifty requests."""


class _Supply:
    """What was drawn and not yet used."""

    __slots__ = ("at", "digits")

    def __init__(self) -> None:
        self.digits = ""
        self.at = 0

    def draw(self, count: int) -> str:
        """More than is left: draw a new block."""
        self.digits = os.urandom(_BLOCK).hex()
        self.at = count
        return self.digits[:count]

    def forget(self) -> None:
        """Use nothing of what is left."""
        self.digits = ""
        self.at = 0


_supply: Final = _Supply()
os.register_at_fork(after_in_child=_supply.forget)


def random_digits(count: int) -> str:
    """So many hexadecimal digits that nobody has used; at most a block."""
    at = _supply.at
    end = at + count
    if end > len(_supply.digits):
        return _supply.draw(count)
    _supply.at = end
    return _supply.digits[at:end]
