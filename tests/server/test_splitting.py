"""What a client means does not depend on how its bytes are split, and nothing it sends upsets the connection."""

from __future__ import annotations

import asyncio
import itertools
import re
from typing import Any

import uvloop
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from gateway.errors import GatewayError
from gateway.model.settings import ServerSettings
from gateway.server import uvicorn_config
from gateway.server.connection import EdgeProtocol
from tests.support.properties import examples

HOST = b"Host: a\r\n"
MESSAGES = [
    b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n",
    b"HEAD /a HTTP/1.1\r\n" + HOST + b"X: y \t\r\n\r\n",
    b"POST /b HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\n\r\n\r\nab\r\n\r",
    b"POST /c HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n",
    b"POST /d HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\nGET ",
    b"GET /e HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"\r\n\r\n",
    b"GET /f HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    b"GET /g HTTP/1.0\r\n\r\n",
]
DAMAGE = st.one_of(
    st.tuples(
        st.just("insert"),
        st.integers(0, 400),
        st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b" ", b":", b"0", b"\xff"]),
    ),
    st.tuples(st.just("drop"), st.integers(0, 400), st.just(b"")),
)


class MemoryTransport(asyncio.Transport):
    """A connection that only remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = False

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.ended = True

    abort = close

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing is sent while the peer of this transport is asked to wait."""

    resume_reading = pause_reading


async def converse(parts: list[bytes]) -> tuple[list[tuple[str, str, bytes]], list[bytes]]:
    """The requests that reached the app complete, and the statuses of all answers."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more, status = b"", True, 200
        try:
            while more:
                message = await receive()
                body += message["body"]
                more = message["more_body"]
            seen.append((scope["method"], scope["path"], body))
        except GatewayError as error:
            status = error.kind.status
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn_config(app, ServerSettings())
    config.load()
    transport, state = MemoryTransport(), ServerState()
    connection = EdgeProtocol(config, state, {}, asyncio.get_running_loop())
    connection.connection_made(transport)
    for part in parts:
        connection.data_received(part)
        await asyncio.sleep(0)
    for _ in range(80):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    await asyncio.gather(*state.tasks, return_exceptions=True)
    return seen, re.findall(rb"HTTP/1\.1 (\d{3})", transport.written)


@given(st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=5), st.lists(DAMAGE, max_size=2), st.data())
@examples(100)
def test_split_anywhere_it_is_the_same_conversation(
    messages: list[bytes], damage: list[Any], data: st.DataObject
) -> None:
    stream = b"".join(messages)
    for kind, where, what in damage:
        at = where % (len(stream) + 1)
        stream = stream[:at] + what + stream[at + (kind == "drop") :]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)) | {0, len(stream)})
    parts = [stream[start:stop] for start, stop in itertools.pairwise(cuts) if start < stop]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        whole = runner.run(converse([stream]))
        split = runner.run(converse(parts))
    assert split == whole
    assert all(status in (b"200", b"204", b"400", b"408") for status in whole[1])
