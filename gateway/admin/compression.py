"""gzip for what is large and asked for often: `/metrics`."""

from __future__ import annotations

import asyncio
import gzip
from typing import Final

_QUICK: Final = 1
"""Of the levels of gzip: repetitive text shrinks to a tenth also so."""


def takes_gzip(accept_encoding: str) -> bool:
    """Whether `Accept-Encoding` names gzip, or `*`, and not with `q=0` (RFC 9110 section 12.5.3)."""
    weights = dict(_weights(accept_encoding))
    return weights.get("gzip", weights.get("*", 0.0)) > 0


async def compressed(content: bytes) -> bytes:
    """In a thread: the compressor lets others run."""
    return await asyncio.to_thread(gzip.compress, content, _QUICK)


def _weights(accept_encoding: str) -> list[tuple[str, float]]:
    """Codings and their weights; a weight that is no number is 0."""
    found = []
    for item in accept_encoding.lower().split(","):
        coding, _, parameter = (part.strip() for part in item.partition(";"))
        text = parameter.partition("=")[2].strip() if parameter else "1"
        found.append((coding, float(text) if text.replace(".", "", 1).isdigit() else 0.0))
    return found
