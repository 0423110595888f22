"""Keyed hashes in place of what a log must not hold (HMAC-SHA-256, RFC 2104), and how to know one again.

The key is what keeps a list of known names from being tried. Without one (only where nothing has to be told apart) the
text is left out.
"""

from __future__ import annotations

import hmac
import re
from typing import Any, Final

LEFT_OUT: Final = "hmac-sha256:-"
_PREFIX: Final = "hmac-sha256:"
_HEX: Final = 32
_HASHED: Final = re.compile(rf"{_PREFIX}(?:[0-9a-f]{{{_HEX}}}|-)")


class Hashing:
    """Hashes under one key. The same text gives the same hash, so that lines can be told to be about one subject."""

    def __init__(self, key: str | None) -> None:
        self._key = None if key is None else key.encode()

    def __call__(self, text: str) -> str:
        """The first 128 bits of the HMAC, in hex, under a prefix that no parser takes for a name."""
        if self._key is None:
            return LEFT_OUT
        digest = hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256")
        return _PREFIX + digest.hex()[:_HEX]


def holds_hash(value: Any) -> bool:
    """Whether a text somewhere in this JSON value is, or holds, a hash."""
    if isinstance(value, str):
        return _HASHED.search(value) is not None
    if isinstance(value, dict):
        return any(map(holds_hash, value.values()))
    return isinstance(value, list) and any(map(holds_hash, value))
