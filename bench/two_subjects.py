"""Two subjects, one that floods and one that does not: what the second one notices, beside nginx where it can be asked.

alice asks every few milliseconds, first in quiet, then while mallory floods IAM's queue, the connections to an
upstream, the event streams, or the bulk requests. IAM answers four calls at a time, 20 ms each; the upstream has eight
places, 10 ms each. `bench/two_subjects.py [--rounds 3] [--seconds 4] [--output FILE]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import uvloop
from bad_origin import changed
from contestants import CONTESTANTS, Contestant, filled
from processes import free_port, running
from stub import BODY, json_response

IAM_S, IAM_PLACES, UPSTREAM_S, UPSTREAM_PLACES = 0.02, 4, 0.01, 8
EVERY_S = 0.02
FLOOD = {"questions": 200, "connections": 100, "streams": 200, "bulk": 4}
SAID = {
    "questions": "questions to IAM",
    "connections": "connections to an upstream",
    "streams": "event streams",
    "bulk": "bulk requests",
}
GATEWAY = """
version: 1
server:
  {listen: "127.0.0.1:@PORT@", admin: "127.0.0.1:@ADMIN@", access_log: "off", max_streams: 40,
   trusted_proxies: [127.0.0.0/8]}
iam: {url: "http://127.0.0.1:@IAM@", max_concurrency: 4, batch: {max_size: 10}}
identity: {header: {name: X-User}}
upstreams: {slow: {url: "http://127.0.0.1:@UPSTREAM@", max_connections: 8}}
routes:
  - {id: questions, path: "/questions/{item}", upstream: slow, authorize: ["read item:{path.item}"], methods: [GET]}
  - {id: connections, path: "/connections/{item}", upstream: slow, authorize: authenticated, methods: [GET]}
  - {id: streams, path: "/streams/{item}", upstream: slow, authorize: authenticated, methods: [GET]}
  - id: bulk
    path: "/bulk/{email}"
    authorize: authenticated
    methods: [GET]
    aggregate:
      systems: {One: {upstream: slow, path: "/bulk/{path.email}"}}
      bulk: {path: /bulk, items: /emails, param: email, max_items: 500, concurrency: 8}
"""
NGINX = (
    ("    location /open/ {", "    location /connections/ { proxy_pass http://inventory; }\n    location /open/ {"),
    ("    location /inventory/ {", "    location /questions/ {"),
)
EVENT = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nb\r\ndata: one\n\n\r\n"
)
ITEMS = b'{"emails":[' + b",".join(b'"a%d@x"' % number for number in range(500)) + b"]}"


class Stub(asyncio.Protocol):
    """Answers after `self.takes_s`, in one of `self.places`."""

    takes_s = UPSTREAM_S
    places: asyncio.Semaphore

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""
        self.tasks: set[asyncio.Task[None]] = set()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        length = next((int(each[15:]) for each in head.lower().split(b"\r\n") if each[:15] == b"content-length:"), 0)
        if found and len(body) >= length:
            self.buffer = b""
            task = asyncio.get_running_loop().create_task(self.serve(head, body))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def serve(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET /streams/"):
            self.transport.write(EVENT)
            return
        async with self.places:
            await asyncio.sleep(self.takes_s)
        self.transport.write(self.answer(body))

    def answer(self, body: bytes) -> bytes:  # whatever is asked
        return json_response(BODY)


class Iam(Stub):
    takes_s = IAM_S

    def answer(self, body: bytes) -> bytes:
        decisions = [b'{"decision":true}'] * body.count(b'"subject"')
        return json_response(b'{"evaluations":[' + b",".join(decisions) + b"]}")


async def serve(role: str, port: int) -> None:
    protocol = {"upstream": Stub, "iam": Iam}[role]
    protocol.places = asyncio.Semaphore({"upstream": UPSTREAM_PLACES, "iam": IAM_PLACES}[role])
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def request(kind: str, user: str, number: int, *, bulk: bool) -> bytes:
    head = f"Host: bench.test\r\nX-User: {user}\r\n"
    if bulk:
        return f"POST /bulk HTTP/1.1\r\n{head}Content-Length: {len(ITEMS)}\r\n\r\n".encode() + ITEMS
    return f"GET /{kind}/{user}{number} HTTP/1.1\r\n{head}\r\n".encode()


class Client:
    """One keep-alive connection of a user."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, message: bytes, *, stream: bool) -> bool:
        """Whether the answer was 200. Of a stream the first event is waited for."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)
        self.writer.write(message)
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        well = head.startswith(b"http/1.1 200")
        if well and stream:
            await self.reader.readuntil(b"data: one\n\n")
            return True
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), None)
        await (self.reader.readuntil(b"0\r\n\r\n") if length is None else self.reader.readexactly(length))
        if b"connection: close" in head:
            self.close()
        return well

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


async def flood(kind: str, port: int) -> None:
    """As much as can be asked by so many connections of mallory; who is refused comes back after 0.25 to 0.75 s."""
    numbers = count()

    async def one() -> None:
        client = Client(port)
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                message = request(kind, "mallory", next(numbers), bulk=kind == "bulk")
                if await client.ask(message, stream=kind == "streams"):
                    if kind == "streams":
                        await asyncio.sleep(3600)
                    continue
            client.close()
            await asyncio.sleep(random.uniform(0.25, 0.75))  # noqa: S311 - not all at once, as different clients do

    await asyncio.gather(*(one() for _ in range(FLOOD[kind])))


async def ask_for(seconds: float, kind: str, port: int) -> tuple[list[bool], list[float]]:
    """What one caller got, and how long each answer took, in ms."""
    client, well, times = Client(port), [], []
    end = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        message = request(kind, "alice", len(times), bulk=False)
        well.append(await client.ask(message, stream=kind == "streams"))
        times.append((time.perf_counter() - begun) * 1000)
        if kind == "streams":
            client.close()
        await asyncio.sleep(max(0.0, EVERY_S - (time.perf_counter() - begun)))
    client.close()
    return well, times


@dataclass
class Figures:
    quiet: list[float] = field(default_factory=list)
    noisy: list[float] = field(default_factory=list)
    well: list[bool] = field(default_factory=list)


@contextlib.contextmanager
def stage(contestant: Contestant, cores: list[int]) -> Iterator[int]:
    """The server with its IAM and its upstream: its port."""
    with tempfile.TemporaryDirectory(prefix="two-subjects-") as name, contextlib.ExitStack() as stack:
        folder, ports = Path(name), {"PORT": free_port(), "ADMIN": free_port()}
        for role in ("iam", "upstream"):
            ports[role.upper()] = port = free_port()
            own = [sys.executable, __file__, "--serve", role, "--port", str(port)]
            stack.enter_context(running(own, port, core=cores[0], log=folder / f"{role}.log"))
        values = {name: str(port) for name, port in ports.items()}
        command = contestant.written(folder, values)
        own_file = folder / contestant.files[0]
        own_file.write_text(
            changed(own_file.read_text(), NGINX) if contestant.name == "nginx" else filled(GATEWAY, values)
        )
        stack.enter_context(
            running(command, ports["PORT"], core=cores[-1], log=folder / "log", environ=contestant.environ)
        )
        time.sleep(1)
        yield ports["PORT"]


def one(kind: str, contestant: Contestant, seconds: float, cores: list[int], figures: Figures) -> None:
    with stage(contestant, cores) as port:
        asyncio.run(ask_for(0.5, kind, port))
        figures.quiet += asyncio.run(ask_for(seconds, kind, port))[1]
        own = ["taskset", "-c", str(cores[0]), "nice", "-n", "10", sys.executable, __file__]
        with subprocess.Popen([*own, "--flood", kind, "--port", str(port)]) as noise:
            try:
                time.sleep(1)
                well, times = asyncio.run(ask_for(seconds, kind, port))
            finally:
                noise.kill()
        figures.noisy += times
        figures.well += well


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


def table(results: dict[tuple[str, str], Figures]) -> str:
    lines = [
        "| the flood of | server | answered 200 | p50, quiet | p50, noisy | p99, quiet | p99, noisy | ratio of p99 |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for (kind, server), one in results.items():
        quiet, noisy = p99(one.quiet), p99(one.noisy)
        medians = f"{statistics.median(one.quiet):.1f} | {statistics.median(one.noisy):.1f}"
        share = f"{sum(one.well)} of {len(one.well)}"
        lines.append(
            f"| {SAID[kind]} | {server} | {share} | {medians} | {quiet:.1f} | {noisy:.1f} | {noisy / quiet:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of asking, in quiet and in the flood each")
    parser.add_argument("--output", type=Path, help="write the table here, too")
    parser.add_argument("--only", choices=FLOOD, help="one kind of flood")
    parser.add_argument("--serve", choices=("iam", "upstream"), help="be this one, at --port")
    parser.add_argument("--flood", choices=FLOOD, help="be mallory, at --port")
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.serve, options.port))
    if options.flood:
        uvloop.run(flood(options.flood, options.port))
    servers = {each.name: each for each in CONTESTANTS}
    results = {
        (kind, name): Figures()
        for kind in ([options.only] if options.only else FLOOD)
        for name in ("gateway", "nginx")
        if name == "gateway" or kind in {"questions", "connections"}
    }
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    for _ in range(options.rounds):
        for (kind, name), figures in results.items():
            one(kind, servers[name], options.seconds, cores, figures)
    print(table(results))
    if options.output:
        options.output.write_text(table(results) + "\n")


if __name__ == "__main__":
    main()
