"""Sends a case's bytes on one connection and reads what comes back, as responses."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import Any

SLOW_AREA = "slow"
USUAL_PATIENCE_S = 4.0


@dataclass
class Response:
    """One final response."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    complete: bool

    def value(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


@dataclass
class Conversation:
    """All that came back. `problems`: what is not well-formed HTTP/1.1."""

    data: bytes = b""
    closed: bool = False
    finals: list[Response] = field(default_factory=list)
    interim: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def expand(parts: list[Any]) -> bytes:
    """`["text", ["unit", count], …]` → bytes."""
    return "".join(part if isinstance(part, str) else part[0] * part[1] for part in parts).encode("latin-1")


async def converse(case: dict[str, Any], port: int) -> Conversation:
    """Send the case and read until it is clear what became of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    talk = Conversation()
    sending = asyncio.create_task(_send(case, writer))
    try:
        await _receive(case, reader, sending, talk)
    except ConnectionError:
        talk.closed = True
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()
    sent = b"".join(expand(part["bytes"]) for part in case["send"])
    _parse(talk, re.findall(rb"(?m)^([A-Z]+) \S+ HTTP/1\.[01]\r?$", sent))
    return talk


async def _send(case: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    try:
        for part in case["send"]:
            await asyncio.sleep(part["after_ms"] / 1000)
            writer.write(expand(part["bytes"]))
            await writer.drain()
        if case.get("half_close"):
            writer.write_eof()
    except ConnectionError:
        pass


async def _receive(
    case: dict[str, Any], reader: asyncio.StreamReader, sending: asyncio.Task[None], talk: Conversation
) -> None:
    expect = case["expect"]
    begun = time.monotonic()
    patience = expect.get("max_seconds", USUAL_PATIENCE_S)
    must_close = "close_after" in expect or "must_close_within_s" in expect
    while (left := patience - (time.monotonic() - begun)) > 0:
        wait = left
        if talk.data and must_close:
            wait = min(expect.get("must_close_within_s", 2.0), left)
        elif talk.data and sending.done():
            wait = min(0.4, left)
        try:
            chunk = await asyncio.wait_for(reader.read(1 << 16), wait)
        except TimeoutError:
            return
        if not chunk:
            talk.closed = True
            return
        talk.data += chunk


def _parse(talk: Conversation, methods: list[bytes]) -> None:
    rest = talk.data
    while rest:
        head, found, after = rest.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status_line = re.fullmatch(r"HTTP/1\.[01] (\d{3})(?: .*)?", lines[0])
        if not found or not status_line:
            talk.problems.append(f"not a response head: {rest[:60]!r}")
            return
        status, rest = int(status_line[1]), after
        if status < 200:
            talk.interim.append(status)
            if status == 101:
                return
            continue
        pairs = [line.partition(":") for line in lines[1:]]
        headers = [(name.lower(), value.strip()) for name, _, value in pairs]
        method = methods[len(talk.finals)] if len(talk.finals) < len(methods) else b"GET"
        response = Response(status, headers, b"", complete=True)
        talk.finals.append(response)
        rest = _body(talk, response, method, rest)


def _body(talk: Conversation, response: Response, method: bytes, rest: bytes) -> bytes:
    length, coding = response.value("content-length"), response.value("transfer-encoding")
    if length and coding:
        talk.problems.append("a response with Content-Length and Transfer-Encoding")
    if method == b"HEAD" or response.status in (204, 304):
        return rest
    if coding:
        return _chunks(talk, response, rest)
    if length is None:
        response.body = rest
        return b""
    response.body, rest = rest[: int(length)], rest[int(length) :]
    response.complete = len(response.body) == int(length)
    return rest


def _chunks(talk: Conversation, response: Response, rest: bytes) -> bytes:
    while True:
        line, found, after = rest.partition(b"\r\n")
        if not found:
            response.complete = False
            return b""
        if not re.fullmatch(rb"[0-9a-fA-F]+", line):
            talk.problems.append(f"chunk size {line[:40]!r}")
            return b""
        size = int(line, 16)
        if not size:
            return after[2:]
        response.body += after[:size]
        rest = after[size + 2 :]
