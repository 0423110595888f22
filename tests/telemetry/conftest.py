"""Requests, records and an OTLP receiver for the tests of telemetry."""

from __future__ import annotations

import gzip
import os
import threading
import time
from collections.abc import Callable
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.model.request import AccessRecord, Request, Target

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01".encode()
UNSAMPLED_PARENT = f"00-{TRACE}-{SPAN}-00".encode()
TOKEN = "tok-s3cret-0123456789"


def request(*traceparents: bytes, trusted: bool = False, raw: bytes = b"/inventory/7", method: str = "GET") -> Request:
    headers = [(b"authorization", b"Bearer " + TOKEN.encode()), *((b"traceparent", value) for value in traceparents)]
    return Request(
        method=method,
        target=Target(raw, raw, b"", ()),
        headers=headers,
        host="gateway.test",
        scheme="http",
        peer="192.0.2.1",
        client="192.0.2.7",
        trusted=trusted,
        request_id="r-1",
    )


def record(**changes) -> AccessRecord:
    made = {
        "started_s": time.monotonic(),
        "request_id": "r-1",
        "trace_id": TRACE,
        "span_id": SPAN,
        "method": "GET",
        "path": "/inventory/7",
        "route": "inventory",
        "path_template": "/inventory/*",
        "status": 200,
        "client": "192.0.2.7",
        **changes,
    }
    return AccessRecord(**made)


def until(true: Callable[[], object], seconds: float = 10) -> None:
    """Wait in a thread of the test for what other threads do."""
    end_s = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.01)


class Receiver:
    """An OTLP receiver: keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list = []
        self.resources: list = []
        self.metrics: dict[str, object] = {}
        self.exports = 0
        self.status = 200
        self.gate = threading.Event()
        self.gate.set()
        self.endpoint = ""

    def take_traces(self, sent: ExportTraceServiceRequest) -> None:
        self.exports += 1
        for resource in sent.resource_spans:
            self.resources.append(resource.resource)
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def take_metrics(self, sent: ExportMetricsServiceRequest) -> None:
        for resource in sent.resource_metrics:
            for scope in resource.scope_metrics:
                self.metrics |= {metric.name: metric for metric in scope.metrics}

    def named(self, name: str) -> list:
        return [span for span in self.spans if span.name == name]


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.gate.wait()
            if receiver.status == 200 and self.path == "/v1/traces":
                receiver.take_traces(ExportTraceServiceRequest.FromString(body))
            elif receiver.status == 200 and self.path == "/v1/metrics":
                receiver.take_metrics(ExportMetricsServiceRequest.FromString(body))
            self.send_response(receiver.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args) -> None:
            """Say nothing."""

    return Handler


@pytest.fixture
def receiver():
    made = Receiver()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(made))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    made.endpoint = f"http://127.0.0.1:{server.server_port}"
    yield made
    made.gate.set()
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def grpc_receiver():
    grpc = pytest.importorskip("grpc")
    from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

    made = Receiver()

    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request, context):  # noqa: N802 - gRPC's name
            made.take_traces(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
        def Export(self, request, context):  # noqa: N802 - gRPC's name
            made.take_metrics(request)
            return metrics_service_pb2.ExportMetricsServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)
    made.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield made
    server.stop(0).wait(5)


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch):
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
