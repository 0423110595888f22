"""Who plays along: servers that behave until they are told to play a fault, and callers that see every byte's fate."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.conftest import GatewayProcess, free_port

PATIENCE_S = 20.0
LIMIT = 1 << 22


@dataclass(frozen=True)
class Seen:
    """One request as a server saw it. `index` counts from 0."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    index: int

    def value(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


Script = Callable[[Seen], Sequence[bytes | float]]
Behave = Callable[[Seen], Any]


@dataclass(frozen=True)
class Fault:
    """What a server does with a request: bytes are sent, numbers waited; then `end`: keep, fin, rst, hang.

    `early`: without reading the request's body.
    """

    script: Script
    end: str = "keep"
    early: bool = False


def plays(*steps: bytes | float, end: str = "keep", early: bool = False) -> Fault:
    return Fault(lambda _: steps, end, early)


def reply(body: bytes = b"", status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    """A response; `length` says something else than the truth."""
    fields = "".join(f"{header}\r\n" for header in headers)
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\n{fields}Content-Length: {size}\r\n\r\n".encode() + body


def as_json(document: Any, status: str = "200 OK", *headers: str) -> bytes:
    return reply(json.dumps(document).encode(), status, "Content-Type: application/json", *headers)


class Actor:
    """A server. `behave` gives the response (bytes, or an awaitable of them); a `fault` is played instead.

    `open` are the connections that it holds now.
    """

    def __init__(self, behave: Behave) -> None:
        self.behave = behave
        self.fault: Fault | None = None
        self.seen: list[Seen] = []
        self.open: set[asyncio.StreamWriter] = set()
        self.connections = 0
        self._listener = _bound(0)
        self.port = int(self._listener.getsockname()[1])
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._listener, limit=LIMIT, backlog=1024)

    async def stop(self) -> None:
        """As a killed process: nothing listens, everything open is reset. The port stays ours."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._listener = _bound(self.port)
        for writer in list(self.open):
            writer.transport.abort()
        await asyncio.sleep(0.01)

    async def leave(self) -> None:
        """For good."""
        await self.stop()
        self._listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        pairs = [line.partition(":") for line in head[1:] if line]
        headers = [(name.lower(), value.strip()) for name, _, value in pairs]
        fault = self.fault
        body = b"" if fault is not None and fault.early else await _body(reader, dict(headers))
        seen = Seen(method, target, headers, body, len(self.seen))
        self.seen.append(seen)
        if fault is not None:
            return await _play(fault, seen, reader, writer)
        answer = self.behave(seen)
        writer.write(await answer if asyncio.iscoroutine(answer) else answer)
        await writer.drain()
        return True


def _bound(port: int) -> socket.socket:
    """A socket that has its port and does not listen: connections to it are refused."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


async def _play(fault: Fault, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    for step in fault.script(seen):
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        else:
            await asyncio.sleep(step)
    if fault.end == "rst":
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
    elif fault.end == "hang":
        while await reader.read(65536):
            pass
    return fault.end == "keep"


async def _body(reader: asyncio.StreamReader, fields: Mapping[str, str]) -> bytes:
    if "content-length" in fields:
        return await reader.readexactly(int(fields["content-length"]))
    body = b""
    if "transfer-encoding" in fields:
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
    return body


def evaluations(seen: Seen) -> list[dict[str, Any]]:
    """What an AuthZEN call asks."""
    asked = json.loads(seen.body)
    many: list[dict[str, Any]] = asked.get("evaluations", [asked])
    return many


def decides(permitted: Callable[[dict[str, Any]], bool]) -> Callable[[Seen], bytes]:
    """An IAM's behaviour, from a function of one evaluation."""
    return lambda seen: as_json({"evaluations": [{"decision": permitted(one)} for one in evaluations(seen)]})


def by_name(evaluation: dict[str, Any]) -> bool:
    """Everybody may, except those called mallory."""
    return not evaluation["subject"]["id"].startswith("mallory")


def echo(seen: Seen) -> bytes:
    """An upstream's behaviour: what it was asked."""
    return as_json({"target": seen.target, "method": seen.method, "body": len(seen.body)})


@dataclass
class Answer:
    """What a caller got. `status` 0: nothing. `complete`: the response ended as its framing says."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False
    seconds: float = 0.0

    def value(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def code(self) -> str:
        """The problem's code, empty for what is no problem of the gateway's."""
        if self.value("content-type") != "application/problem+json":
            return ""
        return str(json.loads(self.body)["code"])

    @property
    def degraded(self) -> str | None:
        return self.value("x-gateway-degraded")

    @property
    def retry_after(self) -> int:
        """`Retry-After`: a whole number of at least 1, and the same in the body."""
        said = self.value("retry-after") or ""
        assert said.isdigit(), self
        assert int(said) >= 1, self
        assert json.loads(self.body)["retry_after"] == int(said)
        return int(said)


class Caller:
    """One keep-alive connection to the gateway."""

    def __init__(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.port = port
        self._reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, port: int) -> Caller:
        return cls(port, *await asyncio.open_connection("127.0.0.1", port, limit=LIMIT))

    async def ask(
        self,
        target: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        patience_s: float = PATIENCE_S,
    ) -> Answer:
        answer = Answer()
        begun = time.monotonic()
        fields = {"Host": "gateway.test", **(headers or {})}
        if body or method == "POST":
            fields["Content-Length"] = str(len(body))
        text = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.writer.write(f"{method} {target} HTTP/1.1\r\n{text}\r\n".encode() + body)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            async with asyncio.timeout(patience_s):
                await _receive(self._reader, answer, method)
        answer.seconds = time.monotonic() - begun
        return answer

    def close(self) -> None:
        self.writer.close()

    def abort(self) -> None:
        """Leave as a crashed client does."""
        self.writer.transport.abort()


async def _receive(reader: asyncio.StreamReader, answer: Answer, method: str) -> None:
    while answer.status < 200:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        answer.status = int(lines[0].split(" ")[1])
        answer.headers = [(k.lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines[1:] if line)]
    if method != "HEAD" and answer.status not in (204, 304):
        await _receive_body(reader, answer)
    answer.complete = True


async def _receive_body(reader: asyncio.StreamReader, answer: Answer) -> None:
    length = answer.value("content-length")
    if answer.value("transfer-encoding") == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            answer.body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        return
    try:
        answer.body = await reader.readexactly(int(length or 0))
    except asyncio.IncompleteReadError as error:
        answer.body = error.partial
        raise


async def ask(port: int, target: str, **asked: Any) -> Answer:
    """One request on a connection of its own."""
    caller = await Caller.to(port)
    try:
        return await caller.ask(target, **asked)
    finally:
        caller.close()


class Gateway:
    """A running gateway process with what operators see of it."""

    def __init__(self, process: GatewayProcess) -> None:
        self.process = process
        self.port = process.port

    async def ask(self, target: str, **asked: Any) -> Answer:
        return await ask(self.port, target, **asked)

    async def look(self, path: str) -> Any:
        """A JSON document of the admin listener."""
        return json.loads(await self._read(path))

    async def metrics(self) -> str:
        """Prometheus' text."""
        return (await self._read("/metrics")).decode()

    async def _read(self, path: str) -> bytes:
        answer = await ask(self.process.admin_port, path, headers={"Host": f"127.0.0.1:{self.process.admin_port}"})
        assert answer.status == 200, answer
        return answer.body

    async def do(self, path: str) -> Answer:
        """An operator's POST."""
        headers = {"Host": f"127.0.0.1:{self.process.admin_port}", "X-Gateway-Admin": "1"}
        return await ask(self.process.admin_port, path, method="POST", headers=headers)

    async def breaker(self, name: str = "iam") -> dict[str, Any]:
        found: dict[str, Any] = (await self.look("/breakers"))["breakers"][name]
        return found

    async def until_said(self, text: str) -> None:
        """Until it stands in the diagnostics."""
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.process.errors.decode():  # noqa: ASYNC110 - another process sets no events here
                await asyncio.sleep(0.02)

    async def until_idle(self) -> dict[str, Any]:
        """Until nothing is in flight any more, which must be soon: the status then."""
        async with asyncio.timeout(PATIENCE_S):
            while _busy(status := await self.look("/status")):  # noqa: ASYNC110 - another process sets no events here
                await asyncio.sleep(0.02)
        return dict(status)


def _busy(status: dict[str, Any]) -> bool:
    origins = [origin for upstream in status["upstreams"].values() for origin in upstream["origins"]]
    pools = any(origin["in_flight"] or origin["connecting"] or origin["pending"] for origin in origins)
    iam = status["iam"]
    return bool(pools or status["in_flight"] or iam.get("in_flight") or iam.get("queue") or status["streams"])


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Until it holds, which must be soon."""
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():  # noqa: ASYNC110 - another process sets no events here
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(folder: Path, text: str, *arguments: str, **environ: str) -> AsyncIterator[Gateway]:
    """`gateway serve` on `text`, in which PORT and ADMIN are filled in."""
    process = _prepared(folder, text, *arguments, **environ)
    try:
        await process.start()
        yield Gateway(process)
    finally:
        code = await process.stop()
    assert code == 0, process.errors.decode()


@asynccontextmanager
async def all_running(*texts: tuple[Path, str]) -> AsyncIterator[list[Gateway]]:
    """Several gateways, started and stopped side by side."""
    processes = [_prepared(folder, text) for folder, text in texts]
    try:
        await asyncio.gather(*(process.start() for process in processes))
        yield [Gateway(process) for process in processes]
    finally:
        codes = await asyncio.gather(*(process.stop() for process in processes))
    assert set(codes) == {0}


def _prepared(folder: Path, text: str, *arguments: str, **environ: str) -> GatewayProcess:
    port, admin = free_port(), free_port()
    file = folder / "routes.yaml"
    file.write_text(text.replace("PORT", str(port)).replace("ADMIN", str(admin)))
    return GatewayProcess(file, port, admin, environ, arguments)


@asynccontextmanager
async def acting(*actors: Actor) -> AsyncIterator[None]:
    """The actors on stage."""
    for actor in actors:
        await actor.start()
    try:
        yield
    finally:
        for actor in actors:
            await actor.leave()
