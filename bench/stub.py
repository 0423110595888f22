"""The two peers of every server measured: an upstream of 0.5 kB JSON, and an IAM that permits whatever it is asked.

`python bench/stub.py upstream|iam|silent|liar PORT`; the last two are IAMs that never answer, and that answer nonsense.
IAM answers AuthZEN evaluations with one permit for each, and anything else
(`auth_request`, `ext_authz`, `forwardAuth`) with an empty 200. `GET /-/count`: how often it was asked so far.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from typing import Final

import uvloop

BODY = b'{"item":"' + b"a" * 490 + b'"}'
BUSY_S = float(os.environ.get("STUB_BUSY_S", "0"))
"""How much CPU time IAM takes for a call."""
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
COUNT = b"GET /-/count "


def json_response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Stub(asyncio.Protocol):
    """Keep-alive HTTP/1.1 for requests whose bodies have a length."""

    asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head = self.buffer.find(b"\r\n\r\n")
            if head < 0:
                return
            length = LENGTH.search(self.buffer, 0, head)
            end = head + 4 + (int(length[1]) if length else 0)
            if len(self.buffer) < end:
                return
            request, self.buffer = self.buffer[:end], self.buffer[end:]
            self.transport.write(self.answer(request, request[head + 4 :]))

    def answer(self, request: bytes, body: bytes) -> bytes:
        raise NotImplementedError


class Upstream(Stub):
    RESPONSE = json_response(BODY)
    LARGE: Final = {b"/64k": json_response(b"a" * 64 * 1024), b"/1m": json_response(b"a" * 1024 * 1024)}

    def answer(self, request: bytes, body: bytes) -> bytes:  # none is looked at
        target = request.split(b" ", 2)[1]
        return self.LARGE.get(target[target.rfind(b"/") :], self.RESPONSE)


class Iam(Stub):
    def answer(self, request: bytes, body: bytes) -> bytes:
        if request.startswith(COUNT):
            return json_response(b"%d" % Iam.asked)
        Iam.asked += 1
        end = time.thread_time() + BUSY_S
        while time.thread_time() < end:
            pass
        evaluations = body.count(b'"subject"')
        if not evaluations:
            return EMPTY
        return json_response(b'{"evaluations":[' + b",".join([b'{"decision":true}'] * evaluations) + b"]}")


class Silent(Stub):
    def answer(self, request: bytes, body: bytes) -> bytes:  # whatever is asked
        return b""


class Liar(Stub):
    def answer(self, request: bytes, body: bytes) -> bytes:  # whatever is asked
        return json_response(b'{"evaluations":"lies"}')


async def main(role: str, port: int) -> None:
    protocol = {"upstream": Upstream, "iam": Iam, "silent": Silent, "liar": Liar}[role]
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
