"""The upstream's response on its way down, in the caller's pace, and never made to look complete when it is not.

Rules: parts go on as they come, and the next is only asked for when the caller has taken the one before; a small
response that is already whole goes out in one piece. What breaks off upstream is broken off towards the caller.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.model.request import Headers
from gateway.upstream.answer import Answer

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
    """End a stream of events that could go on elsewhere: its client comes back, and loses no event that was whole."""
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
