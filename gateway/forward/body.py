"""Bodies to the upstream and to the caller. They are streamed, and an incomplete one is never made to look complete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.model.request import Headers
from gateway.resilience.deadline import Deadline
from gateway.upstream.answer import Answer

# The caller's request body to the upstream. If it is not finished, the upstream's request is aborted, never ended.


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
            # Before the upstream is called.
            raise GatewayError("body_too_large", f"The request body is larger than {max_body} bytes.", sent=False)
    caller = _FromCaller(exchange, deadline, max_body)
    # In memory only where a second attempt could need it.
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
    """The parts of the body as they come; time from the first wait until the last does not count."""

    __slots__ = ("_chunks", "_deadline", "_read")

    def __init__(self, exchange: Exchange, deadline: Deadline, max_body: int) -> None:
        self._chunks = exchange.body(max_body)
        self._deadline = deadline
        self._read: list[bytes] = []

    def put_back(self, chunks: list[bytes]) -> None:
        """First yield again what was read. Wait for more only after that."""
        self._read = chunks[::-1]
        self._deadline.resume()

    def __aiter__(self) -> _FromCaller:
        return self

    async def __anext__(self) -> bytes:
        if self._read:
            return self._read.pop()
        # Pulled, so an upstream that does not read stops the caller. The first pull answers `Expect`.
        self._deadline.pause()
        self._deadline.excuse()
        try:
            return await anext(self._chunks)
        except BaseException:  # its end, too
            self._deadline.resume()
            raise
        finally:
            self._deadline.excuse_ends()


# The upstream's response to the caller, as fast as the caller reads, and never made to look complete when it is not.
#
# Rules: parts are sent on as they come. The next part is read when the caller has taken the previous one. A small
# response that is already complete goes out in one piece. If the upstream aborts, the caller's response is aborted.

Keep = Callable[[bytes], None]
"""What to do with the whole body, once it is known to be whole."""


async def relay(answer: Answer, exchange: Exchange, headers: Headers, keep: Keep | None, max_kept: int) -> None:
    """Send `answer` with these header fields; closing it is the caller's.

    A body of at most `max_kept` bytes is given to `keep` when it was whole.
    """
    body = answer.whole()
    if body is not None:
        await exchange.whole(answer.status, headers, body)
    else:
        await exchange.start(answer.status, headers)
        try:
            body = await _stream(answer, exchange, max_kept if keep else 0)
        except GatewayError as error:
            break_off(exchange, error)
            return
    if keep is not None and body is not None:
        keep(body)


def break_off(exchange: Exchange, error: GatewayError) -> None:
    """End a response that cannot be completed, visibly."""
    exchange.record.code = error.code
    exchange.record.reason = error.reason or error.detail
    exchange.abort()


async def end_well(exchange: Exchange, error: GatewayError) -> None:
    """End an event stream that another gateway can continue. Its client reconnects and loses no complete event."""
    exchange.record.code = error.code
    exchange.record.reason = error.reason or error.detail
    await exchange.finish()


async def _stream(answer: Answer, exchange: Exchange, max_kept: int) -> bytes | None:
    """Part by part. Returns the body if it has at most `max_kept` bytes and somebody wants it."""
    kept: list[bytes] = []
    size = 0
    async for chunk in answer:
        await exchange.write(chunk)
        size += len(chunk)
        if size <= max_kept:
            kept.append(chunk)
        else:
            kept.clear()
    await exchange.finish()
    return b"".join(kept) if size <= max_kept else None
