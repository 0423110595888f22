"""One noisy WebSocket, and what another caller notices: p99 and memory, beside nginx and Envoy.

Another caller asks every few milliseconds on one connection: first in quiet, then while one WebSocket sends as much as
it can of one kind. "One": one connection, which does not come back when it is closed. "Again": one after another, each
as soon as the one before it was closed. The caller has the core of the upstreams, not that of the server.
`bench/noisy.py [--rounds 3] [--seconds 2] [--output FILE]`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import re
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from contestants import CONTESTANTS, Contestant, filled
from processes import free_port, running
from stub import BODY, json_response
from websockets.utils import accept_key

ANSWER = json_response(BODY)
ASK = b"GET /open/x HTTP/1.1\r\nHost: bench.test\r\n\r\n"
EVERY_S = 0.004
SHORT = 125
KINDS = ("fragments", "pings", "messages", "large", "chatty")
SAID = {
    "fragments": "one message of two-byte fragments",
    "pings": "pings",
    "messages": "two-byte messages",
    "large": "messages of 1 MiB",
    "chatty": "two-byte messages of the upstream",
}
GATEWAY = """
version: 1
server: {listen: "127.0.0.1:@PORT@", admin: "127.0.0.1:@ADMIN@", access_log: "off"}
iam: {url: "http://127.0.0.1:9"}
identity: {opaque: {}}
upstreams: {bench: {url: "http://127.0.0.1:@UPSTREAM@"}, noisy: {url: "http://127.0.0.1:@NOISY@"}}
routes:
  - {id: open, path: /open/*, upstream: bench, authorize: public}
  - {id: noisy, path: /noisy/*, upstream: noisy, authorize: public}
"""
ADDED = (
    (
        "    location /open/",
        """    location /noisy/ {
      proxy_pass http://127.0.0.1:@NOISY@;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
    }
    location /open/""",
    ),
    ("stat_prefix: public", "stat_prefix: public\n                upgrade_configs: [{upgrade_type: websocket}]"),
    (
        "                        - match: {prefix: /open/}",
        """                        - match: {prefix: /noisy/}
                          route: {cluster: noisy}
                          typed_per_filter_config:
                            envoy.filters.http.ext_authz:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                              disabled: true
                        - match: {prefix: /open/}""",
    ),
    (
        "    - name: inventory\n",
        """    - name: noisy
      connect_timeout: 1s
      load_assignment:
        cluster_name: noisy
        endpoints:
          - lb_endpoints:
              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @NOISY@}}}
    - name: inventory
""",
    ),
)


def frame(first: int, data: bytes = b"", *, masked: bool = True) -> bytes:
    size = len(data)
    mask = 0x80 if masked else 0
    length = bytes([mask | size]) if size <= SHORT else bytes([mask | 127]) + size.to_bytes(8)
    return bytes([first]) + length + (b"\0\0\0\0" if masked else b"") + data


FIRST = {"fragments": frame(0x02, b"bb")}
BLOCK = {
    "fragments": frame(0x00, b"bb") * 8192,
    "pings": frame(0x89) * 8192,
    "messages": frame(0x82, b"bb") * 8192,
    "large": frame(0x82, b"b" * (1 << 20)),
}


class Upstream(asyncio.Protocol):
    """Answers requests; of a WebSocket it throws everything away, or, at `/noisy/chatty`, never stops talking."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""
        self.open = self.slow = False

    def data_received(self, data: bytes) -> None:
        if self.open:
            return
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head, self.buffer = self.buffer[:end], self.buffer[end + 4 :]
            key = re.search(rb"sec-websocket-key: *(\S+)", head, re.IGNORECASE)
            if key is None:
                self.transport.write(ANSWER)
                continue
            self.open = True
            self.transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept_key(key[1].decode()).encode() + b"\r\n\r\n"
            )
            if b"/chatty" in head:
                self.talk()

    def talk(self) -> None:
        if not self.slow and not self.transport.is_closing():
            self.transport.write(frame(0x82, b"bb", masked=False) * 4096)
            asyncio.get_running_loop().call_soon(self.talk)

    def pause_writing(self) -> None:
        self.slow = True

    def resume_writing(self) -> None:
        self.slow = False
        self.talk()


async def serve_upstream(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def make_noise(kind: str, port: int, *, once: bool) -> None:
    """Send without end; come back when it is closed, unless it is to be `once`."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as noisy:
            noisy.sendall(
                b"GET /noisy/" + kind.encode() + b" HTTP/1.1\r\nHost: bench.test\r\nConnection: Upgrade\r\n"
                b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
                + base64.b64encode(os.urandom(16))
                + b"\r\n\r\n"
            )
            if b" 101 " not in noisy.recv(4096):
                raise SystemExit("no WebSocket")
            noisy.sendall(FIRST.get(kind, b""))
            while True:
                if kind in BLOCK:
                    noisy.sendall(BLOCK[kind])
                if (kind == "chatty" or select.select([noisy], [], [], 0)[0]) and not noisy.recv(1 << 18):
                    break
        time.sleep(60 if once else 0.02)


def ask_for(seconds: float, port: int, meanwhile: Callable[[], None]) -> list[float]:
    """Latencies of one caller, in ms."""
    times: list[float] = []
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < end:
            caller.sendall(ASK)
            got = 0
            while got < len(BODY):
                data = caller.recv(65536)
                if not data:
                    raise SystemExit("the other caller was cut off")
                got += len(data)
            times.append((time.perf_counter() - begun) * 1000)
            meanwhile()
            time.sleep(max(0.0, EVERY_S - (time.perf_counter() - begun)))
    return times


def resident_mib(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def workers(pid: int) -> list[int]:
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid, *children]


@dataclass
class Figures:
    quiet: list[float] = field(default_factory=list)
    one: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    one_mib: list[float] = field(default_factory=list)
    again_mib: list[float] = field(default_factory=list)


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


@dataclass(frozen=True)
class Stage:
    folder: Path
    core: int
    other_core: int
    upstream: int
    noisy: int
    seconds: float

    def round(self, contestant: Contestant, figures: dict[str, Figures]) -> None:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        port = free_port()
        ports = {"PORT": port, "ADMIN": free_port(), "IAM": 9, "UPSTREAM": self.upstream, "NOISY": self.noisy}
        values = {name: str(number) for name, number in ports.items()}
        command = contestant.written(folder, values)
        own = folder / contestant.files[0]
        own.write_text(filled(GATEWAY if contestant.name == "gateway" else upgrading(own.read_text()), values))
        with running(command, port, core=self.core, log=folder / "log", environ=contestant.environ) as pid:
            ask_for(0.5, port, lambda: None)
            for kind in KINDS:
                self.one(kind, port, workers(pid), figures[kind])

    def one(self, kind: str, port: int, pids: list[int], figures: Figures) -> None:
        figures.quiet += ask_for(self.seconds, port, lambda: None)
        grew = Grew(pids)
        with self.noise(kind, port, "--once"):
            figures.one += ask_for(self.seconds / 2, port, grew.look)
        figures.one_mib.append(grew.mib)
        time.sleep(0.3)
        grew = Grew(pids)
        with self.noise(kind, port):
            time.sleep(0.5)
            figures.again += ask_for(self.seconds, port, grew.look)
        figures.again_mib.append(grew.mib)
        time.sleep(0.3)

    @contextlib.contextmanager
    def noise(self, kind: str, port: int, *more: str) -> Iterator[None]:
        own = ["taskset", "-c", str(self.other_core), "nice", "-n", "19", sys.executable, __file__]
        with subprocess.Popen([*own, "--noise", kind, "--port", str(port), *more]) as noise:
            try:
                yield
            finally:
                noise.kill()


class Grew:
    """By how much some processes grow."""

    def __init__(self, pids: list[int]) -> None:
        self.pids = pids
        self.before = sum(map(resident_mib, pids))
        self.mib = 0.0

    def look(self) -> None:
        self.mib = max(self.mib, sum(map(resident_mib, self.pids)) - self.before)


def upgrading(text: str) -> str:
    """The configuration of nginx or Envoy with a second upstream, for WebSockets."""
    for before, after in ADDED:
        text = text.replace(before, after, 1)
    return text


@contextlib.contextmanager
def stage(cores: list[int], seconds: float) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="noisy-") as name:
        folder, upstream, noisy = Path(name), free_port(), free_port()
        own = [sys.executable, __file__, "--upstream"]
        with (
            running([*own, str(upstream)], upstream, core=cores[0], log=folder / "upstream.log"),
            running(["nice", "-n", "19", *own, str(noisy)], noisy, core=cores[0], log=folder / "noisy.log"),
        ):
            yield Stage(folder, cores[-1], cores[0], upstream, noisy, seconds)


def table(results: dict[str, dict[str, Figures]]) -> str:
    lines = [
        "| the noise | server | p99, quiet | p99, one | ratio | MiB | p50, again | p99, again | ratio | MiB |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for kind in KINDS:
        for name, figures in results.items():
            of = figures[kind]
            quiet, one, again = p99(of.quiet), p99(of.one), p99(of.again)
            lines.append(
                f"| {SAID[kind]} | {name} | {quiet:.1f} | {one:.1f} | {one / quiet:.1f} | {max(of.one_mib):.1f} "
                f"| {statistics.median(of.again):.1f} | {again:.1f} | {again / quiet:.1f} | {max(of.again_mib):.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of asking, in quiet and in noise each")
    parser.add_argument("--output", type=Path, help="write the table here, too")
    parser.add_argument("--upstream", type=int, metavar="PORT", help="be the upstream")
    parser.add_argument("--noise", choices=KINDS, help="be the noise, at --port")
    parser.add_argument("--port", type=int)
    parser.add_argument("--once", action="store_true", help="with --noise: do not come back")
    options = parser.parse_args()
    if options.upstream:
        uvloop.run(serve_upstream(options.upstream))
    if options.noise:
        make_noise(options.noise, options.port, once=options.once)
    contestants = [one for one in CONTESTANTS if one.name in ("gateway", "nginx", "Envoy")]
    results = {one.name: {kind: Figures() for kind in KINDS} for one in contestants}
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    with stage(cores, options.seconds) as at:
        for _ in range(options.rounds):
            for contestant in contestants:
                at.round(contestant, results[contestant.name])
    print(table(results))
    if options.output:
        options.output.write_text(table(results) + "\n")


if __name__ == "__main__":
    main()
