"""Random ids of 32 hexadecimal digits: from the system's randomness, which is asked for many at a time.

Rule: no two processes share what was drawn: a fork draws anew.
"""

from __future__ import annotations

import os
from typing import Final

DIGITS: Final = 32
_DRAWN: Final = 128
"""Ids at a time: some forty requests."""

_supply: Final[list[str]] = []
os.register_at_fork(after_in_child=_supply.clear)


def random_id() -> str:
    """Digits that nobody has used."""
    if not _supply:
        _supply.extend(os.urandom(_DRAWN * DIGITS // 2).hex(" ", DIGITS // 2).split(" "))
    return _supply.pop()
