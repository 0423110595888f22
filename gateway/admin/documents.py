"""JSON of documents that may be large, made without holding up whoever serves requests beside it.

The encoder of the interpreter does not let go while it runs: a whole document of megabytes would stop the event loop,
also from a thread. So it is encoded piece by piece, in a thread. Giving back its memory takes as long: what nobody else
holds is emptied there, too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Final

from starlette.responses import Response

_DEPTH: Final = 2
"""`{"routes": [{…}, {…}]}`: a row is a piece."""
_SLICE: Final = 50


async def shown(document: Any, headers: dict[str, str] | None = None, *, spent: bool = False) -> Response:
    """The document as an answer. `spent`: nobody needs it afterwards."""
    return Response(await encoded(document, spent=spent), headers=headers, media_type="application/json")


async def encoded(document: Any, *, spent: bool = False) -> bytes:
    """The document as JSON in UTF-8."""
    return await asyncio.to_thread(_encode, document, spent)


def _encode(document: Any, spent: bool) -> bytes:  # of a call in a thread
    text = "".join(_pieces(document, _DEPTH)).encode()
    if spent and isinstance(document, dict):
        for member in document.values():
            while isinstance(member, list) and member:
                del member[-_SLICE:]
    return text


def _pieces(value: Any, depth: int) -> Iterator[str]:
    if depth and isinstance(value, dict):
        yield "{"
        for number, (name, member) in enumerate(value.items()):
            yield f"{',' if number else ''}{_text(str(name))}:"
            yield from _pieces(member, depth - 1)
        yield "}"
    elif depth and isinstance(value, list | tuple):
        yield "["
        for number, item in enumerate(value):
            if number:
                yield ","
            yield from _pieces(item, depth - 1)
        yield "]"
    else:
        yield _text(value)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
