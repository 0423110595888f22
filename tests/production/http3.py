"""A small HTTP/3 client: one GET, its status and its body."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration


class _Client(QuicConnectionProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = H3Connection(self._quic)
        self._status = 0
        self._body = b""
        self._done: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

    def quic_event_received(self, event: Any) -> None:
        for each in self._http.handle_event(event):
            if isinstance(each, HeadersReceived):
                self._status = int(dict(each.headers)[b":status"])
            elif isinstance(each, DataReceived):
                self._body += each.data
            if getattr(each, "stream_ended", False) and not self._done.done():
                self._done.set_result((self._status, self._body))

    async def get(self, authority: str, path: str) -> tuple[int, bytes]:
        names = (":method", "GET"), (":scheme", "https"), (":authority", authority), (":path", path)
        stream = self._quic.get_next_available_stream_id()
        self._http.send_headers(stream, [(name.encode(), value.encode()) for name, value in names], end_stream=True)
        self.transmit()
        return await asyncio.wait_for(self._done, 20)


async def get(port: int, path: str, authorities: Path) -> tuple[int, bytes]:
    """A GET over QUIC on loopback. `authorities`: whom to trust."""
    settings = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, cafile=str(authorities))
    async with connect("127.0.0.1", port, configuration=settings, create_protocol=_Client) as client:
        return await client.get(f"127.0.0.1:{port}", path)  # type: ignore[attr-defined]
