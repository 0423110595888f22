"""One bad origin of three: how many requests it costs, and how much time, beside nginx and Envoy in the same run.

Two origins answer at once. The third refuses connections, resets them, answers 503, or is silent. One caller asks with
GET on one connection. `bench/bad_origin.py [--rounds 3] [--requests 300] [--output FILE]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop
from contestants import CONTESTANTS, Contestant, filled
from processes import free_port, running
from stub import BODY, json_response

KINDS = {"refused": "refuses", "reset": "resets", "503": "answers 503", "silent": "is silent"}
EVERY_S = 0.01
ASK = b"GET /open/x HTTP/1.1\r\nHost: bench.test\r\n\r\n"
GATEWAY = """
version: 1
server: {listen: "127.0.0.1:@PORT@", admin: "127.0.0.1:@ADMIN@", access_log: "off"}
iam: {url: "http://127.0.0.1:9"}
identity: {opaque: {}}
upstreams: {bench: {urls: ["http://127.0.0.1:@BAD@", "http://127.0.0.1:@ONE@", "http://127.0.0.1:@TWO@"]}}
routes:
  - {id: open, path: /open/*, methods: [GET], upstream: bench, authorize: public, timeout: {read: 1s}}
"""
NGINX = (
    ("server 127.0.0.1:@UPSTREAM@;", "server 127.0.0.1:@BAD@; server 127.0.0.1:@ONE@; server 127.0.0.1:@TWO@;"),
    (
        "location /open/ {",
        "location /open/ { proxy_read_timeout 1s; proxy_next_upstream error timeout invalid_header http_503;",
    ),
)
ENVOY_ORIGIN = "              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @UPSTREAM@}}}\n"
ENVOY_RETRIES = """                          route:
                            cluster: inventory
                            retry_policy:
                              retry_on: connect-failure,reset,5xx
                              per_try_timeout: 1s
                              num_retries: 1
                              retry_host_predicate:
                                - name: envoy.retry_host_predicates.previous_hosts
                                  typed_config:
                                    "@type": @PREVIOUS@"""
PREVIOUS = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
ENVOY = (
    (ENVOY_ORIGIN, "".join(ENVOY_ORIGIN.replace("UPSTREAM", name) for name in ("BAD", "ONE", "TWO"))),
    ("                          route: {cluster: inventory}", ENVOY_RETRIES),
)


class Origin(asyncio.Protocol):
    """Does to every request what `kind` says."""

    kind = "well"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for _ in range(data.count(b"\r\n\r\n")):
            if self.kind == "reset":
                self.transport.abort()
            elif self.kind == "503":
                self.transport.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
            elif self.kind == "well":
                self.transport.write(json_response(BODY))


async def serve(kind: str, port: int) -> None:
    Origin.kind = kind
    server = await asyncio.get_running_loop().create_server(Origin, "127.0.0.1", port)
    await server.serve_forever()


def ask(requests: int, port: int) -> tuple[int, list[float]]:
    """How many answers were 200, and how long each took, in ms."""
    well, times = 0, []
    caller: socket.socket | None = None
    for _ in range(requests):
        begun = time.perf_counter()
        if caller is None:
            caller = socket.create_connection(("127.0.0.1", port), timeout=10)
        caller.sendall(ASK)
        head = received(caller)
        well += head.startswith(b"HTTP/1.1 200")
        times.append((time.perf_counter() - begun) * 1000)
        if b"connection: close" in head.lower():
            caller.close()
            caller = None
        time.sleep(max(0.0, EVERY_S - (time.perf_counter() - begun)))
    return well, times


def received(caller: socket.socket) -> bytes:
    """The head of an answer; its body is here, too."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += caller.recv(65536)
    head, _, rest = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
    while length is not None and len(rest) < length:
        rest += caller.recv(65536)
    if length is None:
        while not rest.endswith(b"0\r\n\r\n"):
            rest += caller.recv(65536)
    return head


def changed(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for before, after in pairs:
        if before not in text:
            raise SystemExit(f"the configuration has no {before!r}")
        text = text.replace(before, after, 1)
    return text


@contextlib.contextmanager
def origins(kind: str, folder: Path, core: int) -> Iterator[dict[str, str]]:
    ports = {name: free_port() for name in ("BAD", "ONE", "TWO")}
    with contextlib.ExitStack() as stack:
        for name, port in ports.items():
            if name != "BAD" or kind != "refused":
                does = kind if name == "BAD" else "well"
                own = [sys.executable, __file__, "--origin", does, "--port", str(port)]
                stack.enter_context(running(own, port, core=core, log=folder / f"{name}.log"))
        yield {name: str(port) for name, port in ports.items()}


def one(contestant: Contestant, kind: str, requests: int, cores: list[int]) -> tuple[int, list[float]]:
    with tempfile.TemporaryDirectory(prefix="bad-origin-") as name:
        folder = Path(name)
        with origins(kind, folder, cores[0]) as ports:
            port = free_port()
            values = {"PORT": str(port), "ADMIN": str(free_port()), "IAM": "9", "UPSTREAM": "@UPSTREAM@"}
            values |= {"PREVIOUS": PREVIOUS, **ports}
            command = contestant.written(folder, values)
            own = folder / contestant.files[0]
            pairs = {"nginx": NGINX, "Envoy": ENVOY}.get(contestant.name, ())
            own.write_text(filled(changed(own.read_text(), pairs) if pairs else GATEWAY, values))
            with running(command, port, core=cores[-1], log=folder / "log", environ=contestant.environ):
                time.sleep(1)  # it listens before everything is warm
                return ask(requests, port)


def table(results: dict[tuple[str, str], tuple[int, list[float]]]) -> str:
    lines = [
        "| the third origin | server | answered 200 | p50, ms | p99, ms | longest, ms |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for (kind, server), (well, times) in results.items():
        p99 = statistics.quantiles(times, n=100)[98]
        share = f"{well} of {len(times)}"
        lines.append(
            f"| {KINDS[kind]} | {server} | {share} | {statistics.median(times):.1f} | {p99:.1f} | {max(times):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--output", type=Path, help="write the table here, too")
    parser.add_argument("--origin", help="be an origin of this kind, at --port")
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    if options.origin:
        uvloop.run(serve(options.origin, options.port))
    contestants = [each for each in CONTESTANTS if each.name in ("gateway", "nginx", "Envoy")]
    results: dict[tuple[str, str], tuple[int, list[float]]] = {
        (kind, each.name): (0, []) for kind in KINDS for each in contestants
    }
    cores = sorted(os.sched_getaffinity(0))
    for _ in range(options.rounds):
        for kind, contestant in ((kind, each) for kind in KINDS for each in contestants):
            well, times = one(contestant, kind, options.requests, cores)
            before = results[kind, contestant.name]
            results[kind, contestant.name] = (before[0] + well, before[1] + times)
    print(table(results))
    if options.output:
        options.output.write_text(table(results) + "\n")


if __name__ == "__main__":
    main()
