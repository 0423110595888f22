"""A backend that takes its time, streams, and knows who is connected; and what the tests do to a gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.e2e.conftest import GatewayProcess, _read, free_port

PATIENCE_S = 20.0
AUTHORIZED = {"authorization": "Bearer allow"}

ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{{port}}", admin: "127.0.0.1:{{admin}}", drain_timeout: {drain}{server}}}
iam: {{url: "{iam}", timeout: {{connect: 1s, read: 2s, total: 2500ms}}{iam_keys}}}
identity: {{opaque: {{}}}}
upstreams: {{backend: {{url: "{backend}"}}}}
routes:
  - id: guarded
    path: /guarded/*
    upstream: backend
    authorize: ["read system:backend"]
    deadline: 20s
    timeout: {{read: 20s}}
  - id: open
    path: /open/*
    upstream: backend
    authorize: public
    deadline: 20s
    timeout: {{read: 20s}}
"""


def routes(
    iam: Any, backend: Any, *, drain: str = "500ms", server: str = "", iam_keys: str = "", more: str = ""
) -> str:
    """A routes.yaml for `start_gateway`. `server`, `iam_keys`: further keys; `more`: further routes."""
    text = ROUTES.format(iam=iam.url, backend=backend.url, drain=drain, server=server, iam_keys=iam_keys)
    return text + more


class Backend:
    """Answers with what it was asked; `?sleep=1.5` later; `/events` for ever; a thousand at the same time."""

    def __init__(self, name: str = "backend") -> None:
        self.name = name
        self.port = free_port()
        self.requests = 0
        self.connections = 0
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        try:
            while True:
                await self._answer(await _read(reader), writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.connections -= 1
            self._open.discard(task)
            writer.close()

    async def _answer(self, seen: Any, writer: asyncio.StreamWriter) -> None:
        self.requests += 1
        parts = urlsplit(seen.target)
        if parts.path.endswith("/events"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"a\r\ndata: 1\n\n\n\r\n")
                await writer.drain()
                await asyncio.sleep(0.1)
        await asyncio.sleep(float(parse_qs(parts.query).get("sleep", ["0"])[0]))
        body = json.dumps({"from": self.name, "target": seen.target, "method": seen.method}).encode()
        kind = next(iter(seen.values("content-type")), "application/json")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    server = Backend()
    await server.start()
    yield server
    await server.stop()


async def until(condition: Callable[[], Awaitable[Any]], what: str, within_s: float = PATIENCE_S) -> Any:
    """Poll until the condition gives something true."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    while loop.time() < end:
        found = await condition()
        if found:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"never happened: {what}")


async def status(gateway: GatewayProcess) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False) as client:
        document: dict[str, Any] = (await client.get(f"{gateway.admin}/status")).json()
        return document


async def post(gateway: GatewayProcess, path: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
        return await client.post(f"{gateway.admin}{path}", headers={"x-gateway-admin": "1"})


async def metrics(gateway: GatewayProcess) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"{gateway.admin}/metrics")).text


def write(gateway: GatewayProcess, text: str) -> None:
    """Replace routes.yaml as editors and deployments do: beside it, then renamed over it."""
    other = gateway.file.with_suffix(".new")
    other.write_text(text.replace("{port}", str(gateway.port)).replace("{admin}", str(gateway.admin_port)))
    other.replace(gateway.file)


def pid(gateway: GatewayProcess) -> int:
    assert gateway.process is not None
    return gateway.process.pid


def descriptors(process: int) -> list[str]:
    """What the open file descriptors of a process are."""
    found = []
    for number in Path(f"/proc/{process}/fd").iterdir():
        try:
            found.append(str(number.readlink()))
        except OSError:
            continue
    return found
