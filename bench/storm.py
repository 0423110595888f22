"""The login storm: how many calls to IAM, and how long until the last answer, beside nginx, Envoy and Traefik.

A hundred users open five systems at the same moment: 500 requests, each a question of its own, on connections that are
open already. IAM answers four calls at a time, each in 5 ms and 0.05 ms for every evaluation. Each server is started,
warmed up with one request, hit, and ended; several rounds in turns. `bench/storm.py [--rounds 5] [--output FILE]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvloop
from contestants import CONTESTANTS, Contestant, filled
from processes import free_port, running
from stub import EMPTY, LENGTH, json_response

USERS, SYSTEMS = 100, 5
AT_A_TIME, CALL_S, EVALUATION_S = 4, 0.005, 0.00005
GATEWAY = """
version: 1
server: {listen: "127.0.0.1:@PORT@", admin: "127.0.0.1:@ADMIN@", access_log: "off"}
iam: {url: "http://127.0.0.1:@IAM@"}
identity: {opaque: {}}
upstreams: {bench: {url: "http://127.0.0.1:@UPSTREAM@"}}
routes:
  - {id: inventory, path: "/inventory/{system}", upstream: bench, authorize: ["read system:{path.system}"]}
"""
BESIDE = ("nginx", "Envoy", "Traefik")


@dataclass(frozen=True)
class Storm:
    """One storm over one server: calls to IAM, time of the last answer, and what was not a 200."""

    calls: int
    last_ms: float
    failed: int


class SmallIam:
    """An IAM of limited capacity. `GET /-/count`: how often it was asked so far."""

    def __init__(self) -> None:
        self.asked = 0
        self._places = asyncio.Semaphore(AT_A_TIME)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                writer.write(await self._answer(head, body))
        writer.close()

    async def _answer(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"GET /-/count "):
            return json_response(b"%d" % self.asked)
        self.asked += 1
        evaluations = body.count(b'"subject"')
        async with self._places:
            await asyncio.sleep(CALL_S + EVALUATION_S * max(1, evaluations))
        if not evaluations:
            return EMPTY
        return json_response(b'{"evaluations":[' + b",".join([b'{"decision":true}'] * evaluations) + b"]}")


class Caller:
    """One open connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def ask(self, target: str, token: str) -> tuple[bool, bytes]:
        """Whether it was a 200, and the body."""
        head = f"GET {target} HTTP/1.1\r\nHost: bench.test\r\nAuthorization: Bearer {token}\r\n\r\n"
        self.writer.write(head.encode())
        received = await self._reader.readuntil(b"\r\n\r\n")
        length = LENGTH.search(received)
        body = await self._reader.readexactly(int(length[1])) if length else b""
        return received.startswith(b"HTTP/1.1 200"), body


async def connected(port: int) -> Caller:
    return Caller(*await asyncio.open_connection("127.0.0.1", port))


async def storm(port: int, iam_port: int) -> Storm:
    """Warm up with one request, then all at once."""
    count = await connected(iam_port)
    callers = [await connected(port) for _ in range(USERS * SYSTEMS)]
    await callers[0].ask("/inventory/0", "warm")
    before = int((await count.ask("/-/count", ""))[1])
    begun = time.perf_counter()
    answers = await asyncio.gather(
        *(caller.ask(f"/inventory/{n % SYSTEMS}", f"user{n // SYSTEMS}") for n, caller in enumerate(callers))
    )
    last_ms = (time.perf_counter() - begun) * 1000
    calls = int((await count.ask("/-/count", ""))[1]) - before
    for caller in [count, *callers]:
        caller.writer.close()
    return Storm(calls, last_ms, sum(not good for good, _ in answers))


@dataclass(frozen=True)
class Stage:
    """Where every server stands: cores, and the ports of the peers."""

    folder: Path
    core: int
    iam: int
    upstream: int

    def hit(self, contestant: Contestant) -> Storm:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        port = free_port()
        ports = {"PORT": port, "ADMIN": free_port(), "IAM": self.iam, "UPSTREAM": self.upstream}
        values = {name: str(number) for name, number in ports.items()}
        command = contestant.written(folder, values)
        own = folder / contestant.files[0]
        text = filled(GATEWAY, values) if contestant.name.startswith("gateway") else own.read_text()
        own.write_text(text.replace("worker_connections 1024", "worker_connections 8192"))  # nginx: three a request
        environ = {key: value.replace("@FOLDER@", str(folder)) for key, value in (contestant.environ or {}).items()}
        with running(command, port, core=self.core, log=folder / "log", environ=environ):
            time.sleep(0.5)
            return uvloop.run(storm(port, self.iam))


@contextlib.contextmanager
def stage(core: int, other_core: int) -> Iterator[Stage]:
    os.sched_setaffinity(0, {other_core})  # this process is the client: it must not take turns with the server
    with tempfile.TemporaryDirectory(prefix="storm-") as name:
        folder = Path(name)
        iam, upstream = free_port(), free_port()
        own = [sys.executable, str(Path(__file__)), "--iam", str(iam)]
        stub = [sys.executable, str(Path(__file__).parent / "stub.py"), "upstream", str(upstream)]
        with (
            running(own, iam, core=other_core, log=folder / "iam.log"),
            running(stub, upstream, core=other_core, log=folder / "upstream.log"),
        ):
            yield Stage(folder, core, iam, upstream)


def table(results: dict[str, list[Storm]]) -> str:
    lines = ["| server | calls to IAM | last answer, ms (median) | best to worst | not 200 |", "|---|---|---|---|---|"]
    for name, storms in results.items():
        calls = sorted({one.calls for one in storms})
        said = f"{calls[0]}" if len(calls) == 1 else f"{calls[0]} to {calls[-1]}"
        times = [one.last_ms for one in storms]
        lines.append(
            f"| {name} | {said} | {statistics.median(times):.0f} | {min(times):.0f} to {max(times):.0f} "
            f"| {sum(one.failed for one in storms)} |"
        )
    return "\n".join(lines)


async def serve_iam(port: int) -> None:
    server = await asyncio.start_server(SmallIam().serve, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the table here, too")
    parser.add_argument("--iam", type=int, metavar="PORT", help="be the IAM of limited capacity")
    options = parser.parse_args()
    if options.iam:
        uvloop.run(serve_iam(options.iam))
        return
    cores = sorted(os.sched_getaffinity(0))
    contestants = [one for one in CONTESTANTS if one.name in ("gateway", *BESIDE)]
    results: dict[str, list[Storm]] = {one.name: [] for one in contestants}
    with stage(cores[-1], cores[0]) as at:
        for _ in range(options.rounds):
            for contestant in contestants:
                results[contestant.name].append(at.hit(contestant))
    print(table(results))
    if options.output:
        options.output.write_text(table(results) + "\n")


if __name__ == "__main__":
    main()
