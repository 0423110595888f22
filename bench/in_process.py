"""The whole gateway in one process, without sockets: what a request costs, and nothing of the kernel's.

    python bench/in_process.py CASE REQUESTS

A second IAM answers, hangs, lies or refuses connections. Under valgrind everything takes about 40 times as long, so its
questions are gathered for 40 times as long, too.

The listener, the upstream and IAM are reached over transports that are Python objects. A peer answers in the next turn
of the event loop, so all connections go in step, and IAM is asked once for all that are open. Run twice with different
numbers of requests: the difference is that of the requests alone.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop
from uvicorn.server import ServerState

import gateway.evidence.shadow
import gateway.upstream.upstream
from gateway.admin.recent import Recent
from gateway.app import pauses
from gateway.app.running import Gateway
from gateway.config import load
from gateway.server.factory import ListenerConfig, uvicorn_config
from gateway.telemetry import build_observer
from gateway.upstream import failures
from gateway.upstream.connect import Origin

USERS: Final = 100
WARM_UP: Final = 400
_IAM_PORT: Final = 9002
_SHADOW_PORT: Final = 9003
_SLOWER: Final = 40
_PEER: Final = ("127.0.0.1", 40000)

ROUTES: Final = """\
version: 1
server: {listen: "127.0.0.1:8080", admin: "127.0.0.1:8081", access_log: "off", SERVER}
iam: {api: authzen, url: "http://127.0.0.1:9002"}
identity: {opaque: {}}
upstreams: {inventory: {url: "http://127.0.0.1:9001"}}
routes:
  - {id: open, path: "/open/*", upstream: inventory, authorize: public}
  - {id: inventory, path: "/inventory/*", upstream: inventory, authorize: ["access system:inventory"]}
"""


DECISIONS: Final = 'trusted_proxies: [127.0.0.1], decisions: {listen: "127.0.0.1:8082"}'
LOGGED: Final = "decision_log: {path: decisions.jsonl, key: k}"
SHADOW: Final = """\
iam_shadow: {url: "http://127.0.0.1:9003", timeout: {connect: 200ms, read: 1s, total: 2s}}
"""


class Case(NamedTuple):
    """What is asked for, on how many connections at once, and what the gateway has of evidence.

    `server`: keys of that section. `decides`: asked on the decision listener. `shadow`: what a second IAM does.
    """

    path: str
    connections: int
    server: str = ""
    decides: bool = False
    shadow: str = ""


CASES: Final = {
    "proxy only": Case("/open/x", 25),
    "authorized": Case("/inventory/x", 25),
    "authorized, one connection": Case("/inventory/x", 1),
    "decision": Case("/envoy/inventory/x", 25, DECISIONS, decides=True),
    "authorized, decision log": Case("/inventory/x", 25, LOGGED),
    **{
        f"authorized, a second IAM that {does}": Case("/inventory/x", 25, shadow=does)
        for does in ("answers", "hangs", "lies", "refuses connections")
    },
}


def _answer(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body


_INVENTORY: Final = _answer(b'{"item":"' + b"a" * 489 + b'"}')


class Transport(asyncio.Transport):
    """A connection to a peer that is part of this process. `protocol` is the gateway's end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        super().__init__({"socket": sock, "peername": _PEER, "sockname": ("127.0.0.1", 8080)})
        self.loop = loop
        self.protocol: Any = None
        self.closed = False

    def connect(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol
        protocol.connection_made(self)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        """Peers send nothing that was not asked for."""

    resume_reading = pause_reading

    def answer(self, data: bytes) -> None:
        """The peer's answer arrives in the next turn of the loop."""
        self.loop.call_soon(self.protocol.data_received, data)


class ToUpstream(Transport):
    """An upstream that answers at once."""

    def write(self, _: bytes | bytearray | memoryview) -> None:
        self.answer(_INVENTORY)


class ToIam(Transport):
    """An IAM that permits everything."""

    answers: Final[dict[int, bytes]] = {}

    def write(self, data: bytes | bytearray | memoryview) -> None:
        asked = bytes(data).count(b'"subject"')
        if asked not in self.answers:
            self.answers[asked] = _answer(b'{"evaluations":[%b]}' % b",".join([b'{"decision":true}'] * asked))
        self.answer(self.answers[asked])


class ToSilence(Transport):
    """A second IAM that takes questions and never answers."""

    def write(self, _: bytes | bytearray | memoryview) -> None:
        pass


class ToLiar(Transport):
    """A second IAM that answers what nobody asked."""

    def write(self, _: bytes | bytearray | memoryview) -> None:
        self.answer(_answer(b'{"evaluations":"lies"}'))


class FromClient(Transport):
    """A client that sends its next request when it has its answer, as long as `wanted` says so."""

    wanted: Callable[[], bytes | None]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not bytes(data).startswith(b"HTTP/1.1 200"):
            sys.stderr.buffer.write(bytes(data))
            os._exit(1)  # nothing else would end it: whatever is raised here is the gateway's to answer
        request = self.wanted()
        if request is not None:
            self.answer(request)


class Dialler:
    """In place of the gateway's own."""

    shadow = ""

    def __init__(self, *_: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock, self._other = socket.socketpair()  # a real one, as it is looked at before it is used again

    async def __call__(self, origin: Origin, factory: Callable[[], Any], within_s: float) -> Any:
        kind: type[Transport] = ToIam if origin.address.port == _IAM_PORT else ToUpstream
        if origin.address.port == _SHADOW_PORT:
            if self.shadow == "refuses connections":
                refused = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
                raise failures.connect_failed(refused, f"{origin.address}", within_s)  # as the gateway's own does
            kind = {"answers": ToIam, "hangs": ToSilence, "lies": ToLiar}[self.shadow]
        protocol = factory()
        kind(self._loop, self._sock).connect(protocol)
        return protocol


def _loopback() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection, as the listener asks the socket who its client is."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        return listening.accept()[0], client


class Clients:
    """`connections` clients of one listener, which ask as the next of USERS in turn."""

    def __init__(self, config: ListenerConfig, case: Case) -> None:
        self._loop = asyncio.get_running_loop()
        head = b"GET %b HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAuthorization: Bearer token-of-user-%03d\r\n\r\n"
        self._requests = cycle([head % (case.path.encode(), user) for user in range(USERS)])
        self._sock, self._other = _loopback()
        state = ServerState()
        state.default_headers = [(b"date", b"Mon, 30 Nov 2026 00:00:00 GMT")]
        self._clients = [self._client(config, state) for _ in range(case.connections)]
        self._left = self._open = 0

    def _client(self, config: ListenerConfig, state: ServerState) -> FromClient:
        client = FromClient(self._loop, self._sock)
        client.wanted = self._next
        made: Any = config.http_protocol_class
        client.connect(made(config=config, server_state=state, app_state={}, _loop=self._loop))
        return client

    async def ask(self, requests: int) -> None:
        """So many requests, all answered."""
        self._left, self._open = requests, len(self._clients)
        self._done = self._loop.create_future()
        for client in self._clients:
            client.answer(self._next() or b"")
        await self._done

    def _next(self) -> bytes | None:
        if self._left:
            self._left -= 1
            return next(self._requests)
        self._open -= 1
        if not self._open:
            self._done.set_result(None)
        return None


async def run(case: Case, requests: int) -> None:
    """Compose the gateway, warm it up, and ask."""
    gateway.upstream.upstream.Dialer = Dialler  # type: ignore[misc,assignment]
    Dialler.shadow = case.shadow
    gateway.evidence.shadow._GATHER_S *= _SLOWER  # type: ignore[misc]  # noqa: SLF001
    with tempfile.TemporaryDirectory() as folder:
        await _run(case, requests, Path(folder))


async def _run(case: Case, requests: int, folder: Path) -> None:
    file = folder / "routes.yaml"
    file.write_text(ROUTES.replace("SERVER", case.server) + (SHADOW if case.shadow else ""))
    configuration = load(file, os.environ)
    recent = Recent()
    with open(os.devnull, "wb", buffering=0) as nowhere:  # noqa: ASYNC230
        telemetry = build_observer(configuration.server, os.environ, also=[recent], stdout=nowhere, stderr=nowhere)
        running = Gateway(configuration, telemetry, lambda same: same, recent)
        asked = running.decisions if case.decides else running.pipeline
        config = uvicorn_config(asked, configuration.server, on_refusal=telemetry.refused, lifespan="off")
        config.load()
        clients = Clients(config, case)
        await clients.ask(WARM_UP)
        pauses.settle()
        await clients.ask(requests)
        shutil.rmtree(folder)
        sys.stdout.flush()
        os._exit(0)  # ending it in order would be counted, too


if __name__ == "__main__":
    os.environ.setdefault("OTEL_TRACES_EXPORTER", "none")
    uvloop.run(run(CASES[sys.argv[1]], int(sys.argv[2])))
