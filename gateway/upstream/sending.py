"""Sends a request body that is still arriving, chunk by chunk, as fast as the upstream takes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from gateway.errors import GatewayError

Ready = Callable[[], Awaitable[None]]
"""Waits until the upstream takes more."""


async def send_chunked(transport: asyncio.Transport, body: AsyncIterator[bytes], ready: Ready) -> None:
    """Send it in chunks (RFC 9112 section 7.1), ended by an empty one. Raises what the body raises."""
    async for chunk in body:
        if chunk:
            await ready()
            transport.writelines((b"%x\r\n" % len(chunk), chunk, b"\r\n"))
    await ready()
    transport.write(b"0\r\n\r\n")


async def send_sized(transport: asyncio.Transport, body: AsyncIterator[bytes], length: int, ready: Ready) -> None:
    """Send its `length` bytes; `bad_request` if it has more or fewer. Raises what the body raises."""
    left = length
    async for chunk in body:
        left -= len(chunk)
        if left < 0:
            break
        await ready()
        transport.write(chunk)
    if left:
        raise GatewayError("bad_request", "The request body is not as long as announced.")
