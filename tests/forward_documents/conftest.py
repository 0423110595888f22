"""A whole inside without a listener: routes.yaml, an IAM that answers what it is told, systems on real sockets."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gateway.app.endpoints import Endpoints
from gateway.app.shared import Parts
from gateway.authorize import Authorizer, DecisionCache
from gateway.config import load
from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.forward.copies import Copies
from gateway.forward.streams import Streams
from gateway.headers import HeaderRules
from gateway.model.permit import ALLOW, DENY, Decision, Question, unknown
from gateway.model.request import AccessRecord, Headers, Request, Subject
from gateway.model.settings import CacheSettings
from gateway.resilience.breaker import Breaker
from gateway.resilience.deadline import Deadline
from gateway.routing import Router, parse_target
from gateway.telemetry.observer import NO_SPAN, Observer
from gateway.upstream import Upstream

TOP = """
version: 1
iam: {url: http://127.0.0.1:1}
identity: {jwt: {issuer: https://idp.example, audience: platform, algorithms: [ES256], jwks_url: https://idp.example/k}}
"""


@dataclass
class System:
    """A toy system. `answer` gets the target and the body and gives status, JSON or bytes, and header fields."""

    answer: Callable[[str, bytes], Any] = lambda target, body: (200, {})
    seen: list[tuple[bytes, Headers, bytes]] = field(default_factory=list)
    port: int = 0
    open_requests: int = 0
    server: asyncio.Server | None = None

    async def start(self) -> None:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line, *fields = head.split(b"\r\n")[:-2]
                headers = [(name.lower(), value.strip()) for name, _, value in (f.partition(b":") for f in fields)]
                length = int(dict(headers).get(b"content-length", b"0"))
                body = await reader.readexactly(length)
                self.seen.append((line, headers, body))
                self.open_requests += 1
                try:
                    await self.respond(line.split()[1].decode(), body, writer)
                finally:
                    self.open_requests -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def respond(self, target: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        answer = self.answer(target, body)
        if isinstance(answer, Awaitable):
            answer = await answer
        status, content, *fields = answer
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        lines = [b"HTTP/1.1 %d X" % status, b"Content-Length: %d" % len(raw), b"Content-Type: application/json"]
        lines += [b"%b: %b" % (name, value) for name, value in fields]
        writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + raw)
        await writer.drain()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other programs' hands: sockets
            await asyncio.sleep(0.01)


async def hang(*_: Any) -> Any:
    """An answer that never comes."""
    await asyncio.Event().wait()


@dataclass
class FakeIam:
    """Answers by `"<action> <type>:<id>"`, else with `default`."""

    default: Decision = ALLOW
    answers: dict[str, Decision] = field(default_factory=dict)
    asked: list[list[str]] = field(default_factory=list)

    async def decide(
        self, questions: Sequence[Question], *, deadline: Deadline, request_id: str, span: object
    ) -> list[Decision]:
        names = [f"{q.check.action['name']} {q.check.resource['type']}:{q.check.resource['id']}" for q in questions]
        self.asked.append(names)
        await asyncio.sleep(0)
        return [self.answers.get(name, self.default) for name in names]

    async def aclose(self) -> None:
        """Nothing to close."""


class Edge:
    """The listener's side."""

    client_left = False
    aborted = False

    def abort(self) -> None:
        self.aborted = True

    def close_after_response(self) -> None:
        """Nothing to close."""

    def respond(self, status: int, headers: Headers, body: bytes) -> bool:
        return False


class Caller:
    """One request's caller: what it gets. `gate`: it reads nothing before this is set."""

    def __init__(self, request: Request, body: bytes) -> None:
        self.messages: list[dict[str, Any]] = []
        self.edge = Edge()
        self.record = AccessRecord(started_s=0.0)
        self.exchange = Exchange(request, self.record, NO_SPAN, self.edge, self.receive, self.send)
        self.gate: asyncio.Event | None = None
        self._body: list[bytes] = [body]

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": self._body.pop(), "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        if self.gate is not None and message.get("body"):
            await self.gate.wait()
        await asyncio.sleep(0)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.messages[0]["headers"] if key == name]

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def complete(self) -> bool:
        return self.messages[-1].get("more_body") is False and not self.edge.aborted


@dataclass
class World:
    """What one test has: systems by name, IAM, and `call`."""

    systems: dict[str, System]
    iam: FakeIam
    copies: Copies
    cache: DecisionCache
    router: Router
    endpoints: dict[str, Any]
    authorizer: Authorizer
    breakers: dict[str, Breaker]

    def caller(self, target: str, method: str = "GET", body: Any = b"", headers: Headers | None = None) -> Caller:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = [(b"content-length", b"%d" % len(raw))] if raw else []
        request = Request(
            method=method,
            target=parse_target(target.encode()),
            headers=[*fields, (b"authorization", b"Bearer secret"), (b"cookie", b"a=b"), *(headers or [])],
            host="gateway.example",
            scheme="http",
            peer="127.0.0.1",
            client="127.0.0.1",
            trusted=False,
            request_id="r-1",
        )
        return Caller(request, raw)

    async def serve(self, caller: Caller, who: str = "alice", **subject: Any) -> None:
        request = caller.exchange.request
        match = self.router.match(request.method, request.target, request.host)
        route, request.params = match.route, match.params
        document = f'{{"type":"identity","id":"{who}"}}'
        known = Subject(type="identity", id=who, key=document, document=document, **subject)
        deadline = Deadline.after(route.deadline_s)
        with deadline.enforced():
            permit = await self.authorizer.authorize(request, route, known, deadline, caller.record, NO_SPAN)
            await self.endpoints[route.id](permit, caller.exchange, deadline)

    async def call(self, target: str, method: str = "GET", body: Any = b"", **more: Any) -> Caller:
        caller = self.caller(target, method, body, more.pop("headers", None))
        await self.serve(caller, **more)
        return caller

    async def refused(self, *args: Any, **more: Any) -> GatewayError:
        with pytest.raises(GatewayError) as error:
            await self.call(*args, **more)
        return error.value


@asynccontextmanager
async def world_of(folder: Path, routes: str, names: Sequence[str], **cache: Any) -> AsyncIterator[World]:
    systems = {name: System() for name in names}
    for system in systems.values():
        await system.start()
    upstreams = "".join(f"  {name}: {{url: 'http://127.0.0.1:{system.port}'}}\n" for name, system in systems.items())
    file = folder / "routes.yaml"
    file.write_text(f"{TOP}upstreams:\n{upstreams}routes:\n{routes}")
    configuration = load(file, {})
    iam, observer, breakers = FakeIam(), Observer(), {}
    store = DecisionCache(replace(CacheSettings(), **cache))
    authorizer = Authorizer(iam, configuration.routes, local=None, cache=store, observer=observer)

    def breaker(name: str, kind: str, policy: Any, addresses: Any) -> Breaker:
        return breakers.setdefault(name, Breaker(name, kind, policy, observer=observer))

    pools = {name: Upstream(settings) for name, settings in configuration.upstreams.items()}
    copies = Copies()
    builder = Endpoints(
        configuration=configuration,
        parts=Parts(),
        upstreams=pools,
        breaker=breaker,
        authorizer=authorizer,
        copies=copies,
        streams=Streams(),
        health=None,
        observer=observer,
        rules=HeaderRules(configuration.server),
    )
    built = {route.id: builder.of(route) for route in configuration.routes}
    router = Router(configuration.routes)
    try:
        yield World(systems, iam, copies, store, router, built, authorizer, breakers)
    finally:
        for pool in pools.values():
            await pool.aclose()
        for system in systems.values():
            system.server.close()


def fault(code: str = "iam_circuit_open", *, isolated: bool = False, retry_after_s: float | None = 7) -> Decision:
    return unknown(GatewayError(code, retry_after_s=retry_after_s), isolated=isolated)


ALLOWED, DENIED = ALLOW, DENY


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    """The helpers of this file."""
    return sys.modules[__name__]
