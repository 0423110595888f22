"""The caller's request body on its way up: how long it says it is, streamed, or held for a second attempt.

Rules: a body that says it is too long is refused before anybody hears of it; one that turns out too long, or that its
caller does not finish, breaks the upstream's request off, it never ends it. The body is pulled, so an upstream that
does not take it stops the caller (backpressure), and `Expect: 100-continue` is answered by the first pull. While the
caller is still sending the deadline stands still, whichever side is the slow one: the listener's `min_body_rate` and
`timeout.write` end what makes no progress. A small body is held in memory only where a second attempt could
need it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.resilience.deadline import Deadline


@dataclass(frozen=True, slots=True)
class Upload:
    """A request body as the wire takes it. `length` None with an iterator: unknown, so chunked."""

    body: bytes | AsyncIterator[bytes] | None
    length: int | None


NO_BODY: Final = Upload(None, None)
_EMPTY: Final = Upload(None, 0)


async def upload(exchange: Exchange, deadline: Deadline, *, max_body: int, hold: int) -> Upload:
    """The body of this request. `max_body`: bytes, 0 = no limit. `hold`: a body up to so many bytes is read whole.

    Raises `body_too_large`, and while it is read what the listener raises (`bad_request`, `request_timeout`).
    """
    length: int | None = None
    fields = dict(exchange.request.headers)
    if b"transfer-encoding" not in fields:
        announced = fields.get(b"content-length")
        if announced is None:
            return NO_BODY
        length = int(announced)
        if length == 0:
            return _EMPTY
        if max_body and length > max_body:
            raise GatewayError("body_too_large", f"The request body is larger than {max_body} bytes.", sent=False)
    caller = _FromCaller(exchange, deadline, max_body)
    if hold and (length is None or length <= hold):
        return await _held(caller, hold)
    return Upload(caller, length)


async def _held(caller: _FromCaller, hold: int) -> Upload:
    """Read it whole; if it is longer than `hold` after all (its length was not said), stream it from its start."""
    size = 0
    chunks: list[bytes] = []
    async for chunk in caller:
        chunks.append(chunk)
        size += len(chunk)
        if size > hold:
            caller.put_back(chunks)
            return Upload(caller, None)
    return Upload(b"".join(chunks), None)


class _FromCaller:
    """The parts of the body as they come; the deadline stands still from the first wait for one until the last."""

    __slots__ = ("_chunks", "_deadline", "_read")

    def __init__(self, exchange: Exchange, deadline: Deadline, max_body: int) -> None:
        self._chunks = exchange.body(max_body)
        self._deadline = deadline
        self._read: list[bytes] = []

    def put_back(self, chunks: list[bytes]) -> None:
        """What was read comes first again, and nobody waits for more until that was taken."""
        self._read = chunks[::-1]
        self._deadline.resume()

    def __aiter__(self) -> _FromCaller:
        return self

    async def __anext__(self) -> bytes:
        if self._read:
            return self._read.pop()
        self._deadline.pause()
        self._deadline.excuse()
        try:
            return await anext(self._chunks)
        except BaseException:  # its end, too
            self._deadline.resume()
            raise
        finally:
            self._deadline.excuse_ends()
