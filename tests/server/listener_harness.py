"""A small gateway behind the real listener: target → route → token → forward, over plain asyncio streams."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

from gateway.errors import GatewayError
from gateway.exchange import Receive, Send
from gateway.forwarded import RequestBuilder
from gateway.headers import HeaderRules, client_response_headers, upstream_request_headers
from gateway.model.request import Request
from gateway.model.route import Access, AccessKind, ProxyAction, Route, Segment
from gateway.model.settings import ServerSettings
from gateway.problem import render
from gateway.routing import Router, parse_target
from gateway.server import EdgeServer, uvicorn_config

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
MAY = {"allow": {"inventory", "monitoring"}, "inv": {"inventory"}}


def prefix_route(name: str, **changes: Any) -> Route:
    """`/NAME/*` for the usual methods."""
    return Route(
        id=name,
        path=f"/{name}/*",
        segments=(Segment(literal=name), Segment(rest=True)),
        action=ProxyAction(upstream="sentinel"),
        methods=METHODS,
        access=dict.fromkeys(METHODS, Access(AccessKind.CHECKS)),
        on_iam_failure={},
        on_upstream_failure={},
        **changes,
    )


class MiniGateway:
    """The ASGI application. `upstream` is the port to forward to; without it the request is echoed."""

    def __init__(self, settings: ServerSettings, upstream: int | None = None) -> None:
        self.settings = settings
        self.upstream = upstream
        self.router = Router([prefix_route(name) for name in ("inventory", "monitoring", "open")])
        self.rules = HeaderRules(settings)
        self.build_request = RequestBuilder()
        self.seen: list[Request] = []

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        request = self.build_request(scope, self.settings)
        self.seen.append(request)
        kind = "websocket.http" if request.websocket else "http"
        try:
            request.target = parse_target(request.target.raw)
            match = self.router.match(request.method, request.target, request.host)
            self.authorize(request, match.route.id)
            await self.forward(request, receive, send)
        except GatewayError as error:
            status, headers, body = render(error, server_name="edge", request_id=request.request_id)
            headers.append((b"content-length", b"%d" % len(body)))
            await send({"type": f"{kind}.response.start", "status": status, "headers": headers})
            await send({"type": f"{kind}.response.body", "body": body, "more_body": False})

    def authorize(self, request: Request, route: str) -> None:
        if route == "open":
            return
        given = request.values(b"authorization")
        scheme, _, token = given[0].decode("latin-1").partition(" ") if given else ("", "", "")
        if scheme.lower() != "bearer" or not token or token != token.strip():
            raise GatewayError("unauthenticated", headers=((b"www-authenticate", b"Bearer"),))
        if route not in MAY.get(token, set()):
            raise GatewayError("iam_denied")

    async def forward(self, request: Request, receive: Receive, send: Send) -> None:
        if request.websocket:
            await echo_socket(receive, send)
        elif self.upstream is None:
            await echo(request, receive, send)
        else:
            await self.proxy(request, receive, send, self.upstream)

    async def proxy(self, request: Request, receive: Receive, send: Send, port: int) -> None:
        headers = upstream_request_headers(request, rules=self.rules, host=b"sentinel.test")
        message = await receive()
        whole = not message.get("more_body")
        framing = (b"content-length", b"%d" % len(message["body"])) if whole else (b"transfer-encoding", b"chunked")
        if not whole or message["body"]:
            headers.append(framing)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            lines = [request.method.encode() + b" " + request.target.raw + b" HTTP/1.1"]
            lines += [name + b": " + value for name, value in headers]
            writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + (message["body"] if whole else b""))
            while not whole:
                body = message["body"]
                writer.write(b"%x\r\n%b\r\n" % (len(body), body) if body else b"")
                if not message.get("more_body"):
                    writer.write(b"0\r\n\r\n")
                    break
                message = await receive()
            await pass_back(reader, request, send)
        finally:
            writer.close()


async def pass_back(reader: asyncio.StreamReader, request: Request, send: Send) -> None:
    first, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    passed = client_response_headers(headers, via=b"1.1 edge", request_id=request.request_id)
    await send({"type": "http.response.start", "status": int(first.split(b" ")[1]), "headers": passed})
    size = 0 if request.method == "HEAD" else int(dict(headers)[b"content-length"])
    await send({"type": "http.response.body", "body": await reader.readexactly(size), "more_body": False})


async def echo(request: Request, receive: Receive, send: Send) -> None:
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def echo_socket(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "frames": message["frames"]})


async def lifespan(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": message["type"] + ".complete"})
    await send({"type": "lifespan.shutdown.complete"})


class Served:
    """A running listener: its port, its config, and raw conversations with it."""

    def __init__(self, server: EdgeServer, port: int) -> None:
        self.server = server
        self.port = port
        self.listener = server.config.listener

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def say(self, *parts: bytes, pause: float = 0.02, wait: float = 5.0) -> bytes:
        """Send the parts, then read until the connection closes."""
        reader, writer = await self.connect()
        try:
            for part in parts:
                writer.write(part)
                await asyncio.sleep(pause)
            async with asyncio.timeout(wait):
                return await reader.read()
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def served(app: Any, settings: ServerSettings, **options: Any) -> AsyncIterator[Served]:
    """Run `app` behind the listener on a free port of the present event loop."""
    config = uvicorn_config(app, settings, lifespan="off", **options)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = EdgeServer(config, listening)
    server.capture_signals = contextlib.nullcontext
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn sets a flag and no event
        await asyncio.sleep(0.005)
    try:
        yield Served(server, listening.getsockname()[1])
    finally:
        server.should_exit = server.force_exit = True
        await task
        listening.close()


def bare(status: int = 200, body: bytes = b"ok") -> Any:
    """An application that answers without reading."""

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app
