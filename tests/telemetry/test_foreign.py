"""What others make of our telemetry: Prometheus' own linter, and a collector that is not ours (rotel)."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from gateway.model.settings import ServerSettings
from gateway.telemetry import build_observer
from gateway.telemetry.metrics import MetricsObserver
from gateway.telemetry.observer import NO_SPAN
from gateway.telemetry.prometheus import text
from gateway.telemetry.store import Store
from tests.complete_path.foreign import of_python, on_path
from tests.telemetry.conftest import record, request, until

pytestmark = pytest.mark.integration


class Sink:
    def write(self, data) -> int:
        return len(data)


def test_prometheus_finds_nothing_to_complain_of():
    promtool = on_path("promtool")
    store = Store()
    observer = MetricsObserver(store)
    observer.request_ended(record(), NO_SPAN)
    observer.decided("inventory", "deny", "iam_denied", "iam", 0.1)
    observer.iam_call_ended(NO_SPAN, 1, "", 0.1)
    observer.attempt_ended(NO_SPAN, "inventory", "GET", 200, "", 0.1)
    observer.iam_queue(1)
    observer.cache("hit")
    observer.circuit("iam", "iam", "closed", "open", "x")
    observer.degraded("inventory", "stale")
    observer.retry("inventory", 2, 3, "upstream_timeout")
    observer.config_reload("success", "")
    checked = subprocess.run(  # noqa: S603 - a program that was looked up
        [promtool, "check", "metrics"], input=text(store.snapshot()), capture_output=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def collector(receiver, tmp_path):
    """A rotel that passes on to our receiver what it understood. Gives its ports for HTTP and gRPC."""
    agent = of_python("rotel", "rotel-agent")
    ports = {"http/protobuf": free_port(), "grpc": free_port()}
    command = [
        agent,
        "start",
        f"--otlp-http-endpoint=127.0.0.1:{ports['http/protobuf']}",
        f"--otlp-grpc-endpoint=127.0.0.1:{ports['grpc']}",
        "--exporter=otlp",
        "--otlp-exporter-protocol=http",
        f"--otlp-exporter-endpoint={receiver.endpoint}",
        f"--pid-file={tmp_path / 'pid'}",
        f"--log-file={tmp_path / 'log'}",
    ]
    with (tmp_path / "out").open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:  # noqa: S603
        try:
            until(lambda: all(accepts(port) for port in ports.values()))
            yield ports
        finally:
            process.terminate()
            process.wait(10)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_one_trace_goes_through_a_foreign_collector(collector, receiver, protocol, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector[protocol]}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    telemetry = build_observer(ServerSettings(access_log="json"), os.environ, stdout=Sink(), stderr=Sink())
    observer = telemetry.observer
    requests = [(made, observer.request_started(request(), made)) for made in (record() for _ in range(10))]
    authorizations = [observer.authorize_started(span) for _, span in requests]
    call = observer.iam_call_started(10, authorizations)
    observer.iam_call_ended(call, 10, "", 0.001)
    for (made, span), authorize in zip(requests, authorizations, strict=True):
        authorize.end()
        observer.attempt_ended(observer.attempt_started(span, "inventory", "GET", 1), "inventory", "GET", 200, "", 0.01)
        observer.request_ended(made, span)
    await telemetry.aclose()
    until(lambda: len(receiver.spans) == 31 and "http.server.request.duration" in receiver.metrics)
    (shared,) = receiver.named("POST /access/v1/evaluations")
    decided = {span.span_id: span for span in receiver.named("authorize")}
    served = {span.span_id: span for span in receiver.named("GET /inventory/*")}
    assert {link.span_id for link in shared.links} == decided.keys()
    assert shared.parent_span_id in decided
    assert {span.parent_span_id for span in decided.values()} == served.keys()
    assert {span.parent_span_id for span in receiver.named("GET")} == served.keys()
    assert len({span.trace_id for span in served.values()}) == 10
