"""A real gateway process, an IAM that can be told to fail, and an upstream that remembers what it saw."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.ports import free_port

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0


@dataclass
class GatewayProcess:
    """`gateway serve` on a file."""

    file: Path
    port: int
    admin_port: int
    environ: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    process: asyncio.subprocess.Process | None = None
    output: bytes = b""
    errors: bytes = b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    async def start(self) -> None:
        # No load balancer has to notice that a test's gateway ends.
        at_once = () if "drain_notice" in self.file.read_text() else ("--drain-notice", "0s")
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway",
            "serve",
            "-c",
            str(self.file),
            *at_once,
            *self.arguments,
            env={**os.environ, **self.environ},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            asyncio.create_task(self._collect(self.process.stdout, "output")),
            asyncio.create_task(self._collect(self.process.stderr, "errors")),
        ]
        end = time.monotonic() + START_TIMEOUT_S
        async with httpx.AsyncClient(trust_env=False) as client:
            while time.monotonic() < end:
                if self.process.returncode is not None:
                    break
                try:
                    if (await client.get(f"{self.admin}/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)
        raise AssertionError(f"the gateway did not come up: {self.errors.decode()}")

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it and give its exit code; nothing it wrote may be a traceback."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        try:
            await asyncio.wait_for(self.process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise AssertionError("the gateway did not stop") from None
        finally:
            await asyncio.gather(*self._readers)
        assert b"Traceback" not in self.errors, self.errors.decode()
        return self.process.returncode or 0

    async def _collect(self, stream: asyncio.StreamReader, name: str) -> None:
        while chunk := await stream.read(65536):
            setattr(self, name, getattr(self, name) + chunk)


@dataclass
class Seen:
    """One request as a server saw it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]


class Server:
    """An HTTP/1.1 server of few words: calls `answer` and remembers what it was asked."""

    def __init__(self, answer: Callable[[Seen], tuple[int, dict[str, str], bytes]]) -> None:
        self.answer = answer
        self.seen: list[Seen] = []
        self.mode = "ok"
        self.port = free_port()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 22)

    async def stop(self) -> None:
        """Stop listening and break what is open, as a killed process does."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                seen = await _read(reader)
                self.seen.append(seen)
                if self.mode == "hang":
                    await asyncio.sleep(3600)
                status, headers, body = (500, {}, b"{}") if self.mode == "errors" else self.answer(seen)
                fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                head = f"HTTP/1.1 {status} X\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + (b"" if seen.method == "HEAD" else body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = head.split("\r\n")
    method, target, _ = lines[0].split(" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:] if line)]
    fields = {name.lower(): value for name, value in headers}
    body = b""
    if "content-length" in fields:
        body = await reader.readexactly(int(fields["content-length"]))
    elif "transfer-encoding" in fields:
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
    return Seen(method, target, headers, body)


def permits(decide: Callable[[dict[str, Any]], bool]) -> Callable[[Seen], tuple[int, dict[str, str], bytes]]:
    """An IAM's `answer` (AuthZEN evaluations) from a function of one evaluation."""

    def answer(seen: Seen) -> tuple[int, dict[str, str], bytes]:
        evaluations = json.loads(seen.body)["evaluations"]
        document = {"evaluations": [{"decision": decide(evaluation)} for evaluation in evaluations]}
        return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()

    return answer


def echo(seen: Seen) -> tuple[int, dict[str, str], bytes]:
    """An upstream's `answer`: what it saw."""
    document = {"method": seen.method, "target": seen.target, "body": seen.body.decode("latin-1")}
    return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()


@pytest.fixture
async def iam() -> AsyncIterator[Server]:
    """An IAM where the subject `allow` may do everything."""
    server = Server(permits(lambda evaluation: evaluation["subject"]["id"] == "allow"))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def upstream() -> AsyncIterator[Server]:
    """An upstream that tells what it saw."""
    server = Server(echo)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def start_gateway(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """A function that writes routes.yaml (with `{port}` and `{admin}` filled in) and starts a gateway on it."""
    started: list[GatewayProcess] = []

    async def start(text: str, *arguments: str, **environ: str) -> GatewayProcess:
        port, admin = free_port(), free_port()
        file = tmp_path / f"routes{len(started)}.yaml"
        file.write_text(text.replace("{port}", str(port)).replace("{admin}", str(admin)))
        process = GatewayProcess(file, port, admin, environ, arguments)
        started.append(process)
        await process.start()
        return process

    yield start
    for process in started:
        if process.process is not None and process.process.returncode is None:
            assert await process.stop() == 0
