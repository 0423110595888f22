"""A strict upstream: it writes down every request and everything about its framing that is not strictly HTTP/1.1."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


@dataclass
class Arrived:
    """One request as it arrived. `complete`: its body ended as its framing says."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    complete: bool = False

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


@dataclass
class Sentinel:
    """What arrived since `reset`. `arrived`: how many in all; `judged`: how many of them a case was judged with."""

    arrived: int = 0
    judged: int = 0
    requests: list[Arrived] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def reset(self) -> None:
        self.requests, self.violations = [], []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, ValueError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                self.violations.append(f"partial head {error.partial[:80]!r}")
            return False
        arrived = self._head(head)
        self.requests.append(arrived)
        self.arrived += 1
        await self._body(reader, arrived)
        arrived.complete = True
        body = json.dumps({"n": len(self.requests), "target": arrived.target}).encode()
        fields = "Set-Cookie: sid=userA; Path=/\r\n" if "setcookie" in arrived.target else ""
        answer = f"HTTP/1.1 200 OK\r\n{fields}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(answer.encode() + (b"" if arrived.method == "HEAD" else body))
        await writer.drain()
        return True

    def _head(self, head: bytes) -> Arrived:
        line, *fields = head[:-4].decode("latin-1").split("\r\n")
        words = line.split(" ")
        if len(words) != 3 or words[2] != "HTTP/1.1":
            self.violations.append(f"request line {line[:120]!r}")
        return Arrived(words[0], words[1] if len(words) > 1 else "", [self._field(text) for text in fields])

    def _field(self, text: str) -> tuple[str, str]:
        name, _, value = text.partition(":")
        if not TOKEN.fullmatch(name) or re.search(r"[\x00\r\n]", value):
            self.violations.append(f"header field {text[:60]!r}")
        return name.lower(), value.strip(" \t")

    async def _body(self, reader: asyncio.StreamReader, arrived: Arrived) -> None:
        lengths, codings = arrived.values("content-length"), arrived.values("transfer-encoding")
        if len(lengths) + len(codings) > 1 or (codings and codings != ["chunked"]):
            self.violations.append(f"framing {lengths} {codings}")
        if codings:
            await self._chunks(reader, arrived)
        elif lengths:
            if not re.fullmatch(r"[0-9]+", lengths[0]):
                self.violations.append(f"content-length {lengths[0]!r}")
            arrived.body = await reader.readexactly(int(lengths[0]))

    async def _chunks(self, reader: asyncio.StreamReader, arrived: Arrived) -> None:
        while True:
            line = (await reader.readuntil(b"\r\n"))[:-2]
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", line):
                self.violations.append(f"chunk size {line[:40]!r}")
            size = int(line.split(b";")[0], 16)
            if not size:
                break
            arrived.body += await reader.readexactly(size)
            if await reader.readexactly(2) != b"\r\n":
                self.violations.append("chunk end")
        while (await reader.readuntil(b"\r\n")) != b"\r\n":
            self.violations.append("trailer forwarded")
