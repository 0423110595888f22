"""How much of what came is parsed before the work is looked at: the work that bytes make differs by a factor of 1,000.

A turn of the event loop parses at most TURN_BYTES and about TURN_PARTS fields or chunks of one connection.
"""

from __future__ import annotations

from typing import Final

TURN_BYTES: Final = 64 * 1024
TURN_PARTS: Final = 256
FIRST_STRIDE: Final = 1536
"""As many bytes hold at most TURN_PARTS chunks of one byte."""
_SPARSE: Final = 16


def fitted(stride: int, parts: int) -> int:
    """The next number of bytes, when the last `stride` of them held so many parts."""
    if parts <= _SPARSE:
        return min(TURN_BYTES, 4 * stride)
    if parts > TURN_PARTS // 2:
        return max(FIRST_STRIDE // 4, stride // 8)
    return stride
