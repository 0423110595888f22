"""An upstream of bytes on a real socket, and an exchange whose client is the test."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.exchange import Exchange
from gateway.forward.copies import Copies
from gateway.forward.heads import Redirects
from gateway.forward.proxy import ProxyEndpoint
from gateway.forward.streams import Streams
from gateway.headers import HeaderRules
from gateway.model.permit import Permit
from gateway.model.request import AccessRecord, Headers, Request, Subject
from gateway.model.route import (
    Access,
    AccessKind,
    IamFailureRule,
    ProxyAction,
    Route,
    Segment,
    UpstreamFailureRule,
)
from gateway.model.settings import ServerSettings, UpstreamSettings
from gateway.resilience.breaker import Breaker
from gateway.resilience.deadline import Deadline, DeadlineExceeded
from gateway.resilience.retry import RetryBudget
from gateway.routing import parse_target
from gateway.telemetry.observer import NO_SPAN, Observer
from gateway.upstream import Upstream
from gateway.upstream.answer import StreamTypes
from gateway.upstream.guarded import GuardedUpstream

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
ALICE = Subject(type="identity", id="alice", key="identity:alice", document='{"type":"identity","id":"alice"}')
BOB = Subject(type="identity", id="bob", key="identity:bob", document='{"type":"identity","id":"bob"}')

Handler = Callable[["Conversation"], Awaitable[None]]


@dataclass
class Conversation:
    """One request at the fake upstream. The handler writes raw bytes; `body` reads what was announced."""

    head: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    upstream: FakeUpstream

    @property
    def line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def headers(self) -> Headers:
        lines = self.head.split(b"\r\n")[1:-2]
        return [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    async def body(self) -> bytes:
        """The whole request body; asyncio.IncompleteReadError if it broke off."""
        if self.values(b"transfer-encoding"):
            chunks = []
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                chunks.append(await self.reader.readexactly(size))
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
            return b"".join(chunks)
        length = self.values(b"content-length")
        return await self.reader.readexactly(int(length[0])) if length else b""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, status: int = 200, body: bytes = b"ok", *fields: bytes) -> None:
        lines = [b"HTTP/1.1 %d X" % status, b"Content-Length: %d" % len(body), *fields]
        await self.send(b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if self.line.startswith(b"HEAD") else body))

    def cut(self) -> None:
        self.writer.transport.abort()


@dataclass
class FakeUpstream:
    """Counts what reached it. `handler` answers one request after the other on each connection."""

    handler: Handler
    port: int = 0
    seen: list[Conversation] = field(default_factory=list)
    open_connections: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                talk = Conversation(head, reader, writer, self)
                self.seen.append(talk)
                self.reached.set()
                await self.handler(talk)
                if writer.transport.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open_connections -= 1
            self.closed.set()
            writer.close()


@asynccontextmanager
async def upstream_of(handler: Handler) -> AsyncIterator[FakeUpstream]:
    fake = FakeUpstream(handler)
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()


class FakeEdge:
    """The listener's side of one connection."""

    def __init__(self) -> None:
        self.client_left = False
        self.aborted = False
        self.closing = False

    def abort(self) -> None:
        self.aborted = True

    def close_after_response(self) -> None:
        self.closing = True

    def respond(self, status: int, headers: Headers, body: bytes) -> bool:
        return False


class Client:
    """What the caller sends and sees. `body` are the parts it sends; `paces` makes it read slowly."""

    def __init__(self, request: Request, body: list[bytes] | None = None) -> None:
        self.request = request
        self.parts = list(body or [b""])
        self.messages: list[dict[str, Any]] = []
        self.edge = FakeEdge()
        self.record = AccessRecord(started_s=time.monotonic())
        self.exchange = Exchange(request, self.record, NO_SPAN, self.edge, self.receive, self.send)
        self.pulled = 0
        self.gate: asyncio.Event | None = None
        self.written = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if not self.parts:
            await asyncio.Event().wait()
        self.pulled += 1
        part = self.parts.pop(0)
        if isinstance(part, BaseException):
            raise part
        if isinstance(part, float):
            await asyncio.sleep(part)
            return await self.receive()
        return {"type": "http.request", "body": part, "more_body": bool(self.parts)}

    async def send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self.written.set()
        if self.gate is not None and message.get("body"):
            await self.gate.wait()

    @property
    def status(self) -> int:
        return self.messages[0]["status"]

    @property
    def headers(self) -> Headers:
        return self.messages[0]["headers"]

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def complete(self) -> bool:
        return bool(self.messages) and self.messages[-1].get("more_body") is False and not self.edge.aborted


def a_request(method: str = "GET", target: bytes = b"/inventory/7", headers: Headers | None = None) -> Request:
    return Request(
        method=method,
        target=parse_target(target),
        headers=list(headers or []),
        host="gw.example",
        scheme="http",
        peer="127.0.0.1",
        client="127.0.0.1",
        trusted=False,
        request_id="req-1",
    )


def a_route(**over: Any) -> Route:
    rule = over.pop("on_upstream", UpstreamFailureRule())
    methods = over.pop("methods", METHODS)
    fields: dict[str, Any] = {
        "id": "inventory",
        "path": "/inventory/*",
        "segments": (Segment(literal="inventory"), Segment(rest=True)),
        "action": ProxyAction(upstream="store"),
        "methods": methods,
        "access": dict.fromkeys(methods, Access(AccessKind.AUTHENTICATED)),
        "on_iam_failure": dict.fromkeys(methods, IamFailureRule()),
        "on_upstream_failure": dict.fromkeys(methods, rule),
        "deadline_s": 5.0,
    }
    return Route(**{**fields, **over})


class Spy(Observer):
    """Remembers what rooms said."""

    def __init__(self) -> None:
        self.retries: list[tuple[str, int, int, str]] = []
        self.modes: list[tuple[str, str]] = []
        self.attempts: list[tuple[int, str]] = []

    def retry(self, target: str, attempt: int, attempts: int, code: str) -> None:
        self.retries.append((target, attempt, attempts, code))

    def degraded(self, route: str, mode: str) -> None:
        self.modes.append((route, mode))

    def attempt_ended(self, span: Any, upstream: str, method: str, status: int, code: str, *_: object) -> None:
        self.attempts.append((status, code))


@dataclass
class Bench:
    """One route over one real upstream."""

    route: Route
    upstream: Upstream
    endpoint: ProxyEndpoint
    breaker: Breaker
    copies: Copies
    streams: Streams
    spy: Spy

    def permit(self, request: Request, **over: Any) -> Permit:
        fields: dict[str, Any] = {"subject": ALICE, "outcome": "allow", "source": "iam"}
        return Permit(request=request, route=self.route, **{**fields, **over})

    async def call(self, client: Client, **over: Any) -> Client:
        """As the pipeline does: under the route's deadline."""
        deadline = Deadline.after(self.route.deadline_s)
        try:
            with deadline.enforced():
                await self.endpoint(self.permit(client.request, **over), client.exchange, deadline)
        except DeadlineExceeded:
            raise AssertionError("the deadline's end has to be named inside") from None
        return client

    async def get(self, target: bytes = b"/inventory/7", headers: Headers | None = None, **over: Any) -> Client:
        return await self.call(Client(a_request("GET", target, headers)), **over)


@pytest.fixture
async def bench() -> AsyncIterator[Callable[..., Bench]]:
    """Makes benches over a port; closes their pools."""
    upstreams: list[Upstream] = []

    def make(port: int, *, action: ProxyAction | None = None, auth: Any = None, **over: Any) -> Bench:
        action = action or ProxyAction(upstream="store")
        route = a_route(action=action, **over)
        settings = UpstreamSettings(name="store", urls=(f"http://127.0.0.1:{port}",))
        upstream = Upstream(settings)
        upstreams.append(upstream)
        spy = Spy()
        breaker = Breaker(route.id, "upstream", route.resilience.breaker, observer=spy)
        guarded = GuardedUpstream(
            name=route.id,
            upstream=upstream,
            resilience=route.resilience,
            breaker=breaker,
            budget=RetryBudget(),
            observer=spy,
            auth=auth,
            streams=StreamTypes(route.stream_content_types),
        )
        copies, streams = Copies(), Streams()
        endpoint = ProxyEndpoint(
            route,
            action,
            guarded,
            authority=upstream.authority,
            rules=HeaderRules(ServerSettings()),
            copies=copies,
            streams=streams,
            observer=spy,
            redirects=Redirects((upstream.authority,), action.strip_prefix or b"", preserves_host=action.preserve_host)
            if action.rewrite_redirects
            else None,
        )
        return Bench(route, upstream, endpoint, breaker, copies, streams, spy)

    yield make
    for upstream in upstreams:
        await upstream.aclose()


@pytest.fixture
def refused_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
