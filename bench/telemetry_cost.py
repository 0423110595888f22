"""CPU time that telemetry adds to one request, by what is switched on: `python bench/telemetry_cost.py`.

Every hook of one proxied, authorized request is called as the pipeline calls it; all threads of the process count (the
writing of lines, the encoding of spans); the receiver is another process. Look at the ratios: microseconds differ by
machine.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

from gateway.model.request import AccessRecord, Request, Target
from gateway.model.settings import ServerSettings
from gateway.telemetry import build_observer
from gateway.telemetry.observer import Observer

REQUEST = Request(
    method="GET",
    target=Target(b"/inventory/7", b"/inventory/7", b"", ("inventory", "7")),
    headers=[(b"accept", b"*/*")],
    host="gateway.test",
    scheme="http",
    peer="192.0.2.1",
    client="192.0.2.1",
    trusted=False,
    request_id="0f9c" * 8,
)
RECEIVER = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *args):
        pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
NO_METRICS = {"OTEL_METRICS_EXPORTER": "none"}
ONE_PERCENT = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}


class Nowhere:
    """A stream that takes everything."""

    def write(self, data: memoryview) -> int:
        return len(data)


def one_request(observer: Observer) -> None:
    record = AccessRecord(started_s=time.monotonic())
    span = observer.request_started(REQUEST, record)
    record.route, record.path_template = "inventory", "/inventory/*"
    authorize = observer.authorize_started(span)
    observer.cache("miss")
    call = observer.iam_call_started(1, [authorize])
    observer.iam_queue(0)
    observer.iam_call_ended(call, 1, "", 0.001)
    record.authz_outcome, record.authz_source, record.authz_s = "allow", "iam", 0.001
    observer.decided("inventory", "allow", "", "iam", 0.001)
    authorize.set("gateway.authz.outcome", "allow")
    authorize.set("gateway.authz.source", "iam")
    authorize.end()
    attempt = observer.attempt_started(span, "inventory", "GET", 1)
    observer.attempt_ended(attempt, "inventory", "GET", 200, "", 0.002)
    record.upstream, record.upstream_s, record.status = "inventory", 0.002, 200
    observer.request_ended(record, span)


async def measure_us(observer: Observer, requests: int) -> float:
    """CPU microseconds a request, the best of three rounds; the loop gets a turn as it would between requests."""
    best = float("inf")
    for _ in range(3):
        begun = time.process_time()
        for number in range(requests):
            one_request(observer)
            if number % 500 == 0:
                await asyncio.sleep(0.001)
        best = min(best, (time.process_time() - begun) / requests * 1e6)
    return best


async def mode(name: str, environ: dict[str, str], log: str, requests: int, bare_us: float) -> None:
    for old in [key for key in os.environ if key.startswith("OTEL_")]:
        del os.environ[old]
    os.environ.update(environ)
    telemetry = build_observer(ServerSettings(access_log=log), os.environ, stdout=Nowhere(), stderr=Nowhere())
    us = await measure_us(telemetry.observer, requests) - bare_us
    await telemetry.aclose()
    print(f"| {name} | {us:.1f} |")


async def measure(endpoint: str) -> None:
    to = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    bare_us = await measure_us(Observer(), 20_000)
    print("| on | CPU µs a request |\n|---|---|")
    await mode("trace ids only", NO_METRICS, "off", 20_000, bare_us)
    await mode("metrics", {}, "off", 20_000, bare_us)
    await mode("log", NO_METRICS, "json", 20_000, bare_us)
    await mode("log, metrics (default)", {}, "json", 20_000, bare_us)
    await mode("log, metrics, 1 % of traces", to | ONE_PERCENT, "json", 20_000, bare_us)
    await mode("log, metrics, all traces", to, "json", 5_000, bare_us)


def main() -> None:
    with subprocess.Popen([sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE, text=True) as receiver:
        try:
            port = receiver.stdout.readline().strip() if receiver.stdout else ""
            asyncio.run(measure(f"http://127.0.0.1:{port}"))
        finally:
            receiver.terminate()


if __name__ == "__main__":
    main()
