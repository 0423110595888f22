"""Spans and metrics arrive at a real receiver, by both transports; one that is dead, slow or refusing harms nobody."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import time

import pytest

from gateway.errors import GatewayError
from gateway.model.settings import ServerSettings
from gateway.telemetry import Telemetry, build_observer, exposition
from tests.telemetry.conftest import TOKEN, Receiver, record, request, until

pytestmark = pytest.mark.hazard


class Sink:
    """A stream that keeps what is written."""

    def __init__(self):
        self.data = bytearray()

    def write(self, data) -> int:
        self.data += data
        return len(data)

    @property
    def text(self) -> str:
        return self.data.decode()


@pytest.fixture
def out():
    return Sink()


@pytest.fixture
def err():
    return Sink()


@pytest.fixture
def build(monkeypatch, out, err):
    def made(**environ: str) -> Telemetry:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        settings = ServerSettings(access_log="json")
        return build_observer(settings, os.environ, stdout=out, stderr=err)

    return made


def serve(telemetry: Telemetry) -> None:
    observer, made = telemetry.observer, record(trace_id="", span_id="", authz_outcome="allow", authz_source="iam")
    span = observer.request_started(request(raw=b"/inventory/7?access_token=" + TOKEN.encode()), made)
    authorize = observer.authorize_started(span)
    call = observer.iam_call_started(1, [authorize])
    observer.iam_call_ended(call, 1, "", 0.001)
    observer.decided("inventory", "allow", "", "iam", 0.001)
    authorize.end()
    attempt = observer.attempt_started(span, "inventory", "GET", 1)
    observer.attempt_ended(attempt, "inventory", "GET", 200, "", 0.01)
    observer.request_ended(made, span)


async def check_arrival(telemetry: Telemetry, receiver: Receiver, out: Sink) -> None:
    serve(telemetry)
    telemetry.observer.breaker_added("iam", "iam", "closed")
    await telemetry.aclose()
    assert {span.name for span in receiver.spans} == {
        "GET /inventory/*",
        "authorize",
        "POST /access/v1/evaluations",
        "GET",
    }
    (server,), (authorize,) = receiver.named("GET /inventory/*"), receiver.named("authorize")
    (call,) = receiver.named("POST /access/v1/evaluations")
    assert authorize.parent_span_id == server.span_id
    assert [link.span_id for link in call.links] == [authorize.span_id]
    line = json.loads(out.text)
    assert (line["trace_id"], line["span_id"]) == (server.trace_id.hex(), server.span_id.hex())
    names = {item.key: item.value.string_value for item in receiver.resources[0].attributes}
    assert names["service.name"] == "iam-gateway"
    check_metrics(receiver)
    everything = f"{receiver.spans}{receiver.metrics}{receiver.resources}{out.text}"
    assert TOKEN not in everything


def check_metrics(receiver: Receiver) -> None:
    decisions = receiver.metrics["gateway.authz.decisions"].sum
    assert decisions.is_monotonic
    assert decisions.data_points[0].as_int == 1
    assert {item.key for item in decisions.data_points[0].attributes} == {"route", "outcome"}
    durations = receiver.metrics["http.server.request.duration"]
    (point,) = durations.histogram.data_points
    assert (durations.unit, point.count, len(point.bucket_counts)) == ("s", 1, len(point.explicit_bounds) + 1)
    status = next(item for item in point.attributes if item.key == "http.response.status_code")
    assert status.value.int_value == 200
    assert point.exemplars[0].trace_id == receiver.named("GET /inventory/*")[0].trace_id
    states = receiver.metrics["gateway.circuit.state"].gauge.data_points
    assert sum(point.as_int for point in states) == 1


async def test_spans_and_metrics_arrive_over_http(build, receiver, out):
    await check_arrival(build(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint), receiver, out)


async def test_spans_and_metrics_arrive_over_grpc(build, grpc_receiver, out):
    telemetry = build(OTEL_EXPORTER_OTLP_ENDPOINT=grpc_receiver.endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    await check_arrival(telemetry, grpc_receiver, out)


async def test_metrics_are_sent_at_the_interval(build, receiver):
    telemetry = build(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, OTEL_METRIC_EXPORT_INTERVAL="30")
    serve(telemetry)
    await asyncio.to_thread(until, lambda: "gateway.authz.decisions" in receiver.metrics)
    await telemetry.aclose()


async def test_nothing_is_sent_when_the_sdk_is_off(build, receiver, out):
    telemetry = build(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, OTEL_SDK_DISABLED="true")
    serve(telemetry)
    assert b"gateway_authz_decisions_total{" in telemetry.exposition()[0], "what is counted does not need the SDK"
    await telemetry.aclose()
    assert (receiver.exports, receiver.metrics) == (0, {})
    assert len(json.loads(out.text)["trace_id"]) == 32


async def test_nothing_is_counted_when_metrics_are_off(build):
    telemetry = build(OTEL_METRICS_EXPORTER="none")
    serve(telemetry)
    assert b"gateway_authz_decisions_total{" not in telemetry.exposition()[0]
    await telemetry.aclose()


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("collector", ["dead", "refusing", "hanging"])
async def test_a_bad_collector_costs_spans_never_time_or_memory(build, receiver, err, collector):
    """Ten times more spans than the queue holds; every request is as quick as ever, and the end is bounded."""
    endpoint = closed_port() if collector == "dead" else receiver.endpoint
    receiver.status = 400
    if collector == "hanging":
        receiver.gate.clear()
    telemetry = build(
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        OTEL_BSP_MAX_QUEUE_SIZE="200",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="100",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )
    slowest_s = 0.0
    for _ in range(500):
        begun_s = time.perf_counter()
        serve(telemetry)
        slowest_s = max(slowest_s, time.perf_counter() - begun_s)
    assert slowest_s < 1
    begun_s = time.perf_counter()
    await telemetry.aclose()
    assert time.perf_counter() - begun_s < 9
    assert TOKEN not in err.text
    if collector != "hanging":
        assert dropped(telemetry) == 500 * 4, "each span that nobody has is counted, those of the full queue too"


def dropped(telemetry: Telemetry) -> float:
    shown, _ = telemetry.exposition()
    return float(re.search(rb'^gateway_telemetry_dropped_total{signal="traces"} (\S+)$', shown, re.MULTILINE)[1])


async def test_spans_that_arrive_and_spans_that_are_dropped_are_all_spans(build, receiver):
    receiver.gate.clear()
    telemetry = build(
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_BSP_MAX_QUEUE_SIZE="200",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="100",
    )
    for _ in range(500):
        serve(telemetry)
    assert dropped(telemetry) == 500 * 4 - 200
    receiver.gate.set()
    await telemetry.aclose()
    assert len(receiver.spans) + dropped(telemetry) == 500 * 4


async def test_a_transport_that_is_not_installed_is_said_and_the_gateway_serves(build, monkeypatch, err, out):
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    telemetry = build(OTEL_EXPORTER_OTLP_ENDPOINT=closed_port(), OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    serve(telemetry)
    await telemetry.aclose()
    assert "Install the extra iam-gateway[otlp-grpc]" in err.text
    assert json.loads(out.text)["status"] == 200


async def test_what_the_listener_refused_is_logged_and_counted(build, out):
    telemetry = build()
    telemetry.refused(GatewayError("headers_too_large", "Too many."), "192.0.2.9", "r-9", b"/x?token=" + TOKEN.encode())
    await telemetry.aclose()
    line = json.loads(out.text)
    assert (line["status"], line["code"], line["path"], line["client"]) == (431, "headers_too_large", "/x", "192.0.2.9")
    assert len(line["trace_id"]) == 32
    assert b'http_response_status_code="431"' in telemetry.exposition()[0]
    assert TOKEN not in out.text


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (f"/x?token={TOKEN}", "/x"),
        (f"/x#{TOKEN}", "/x"),
        (f"http://user:{TOKEN}@evil/y?{TOKEN}", "/y"),
        (f"http://user:{TOKEN}@evil", "/"),
        (f"user:{TOKEN}@evil:443", ""),
        (TOKEN, ""),
    ],
)
async def test_of_a_refused_target_only_the_path_is_logged(build, out, target, path):
    telemetry = build()
    telemetry.refused(GatewayError("bad_request"), "192.0.2.9", "r-9", target.encode())
    await telemetry.aclose()
    assert json.loads(out.text)["path"] == path
    assert TOKEN not in out.text


async def test_diagnostics_go_to_the_other_stream(build, out, err):
    telemetry = build()
    telemetry.observer.circuit("iam", "iam", "closed", "open", "5 consecutive failures, last: iam_timeout")
    await telemetry.aclose()
    assert out.text == ""
    assert "[resilience] [iam] Circuit CLOSED → OPEN (5 consecutive failures, last: iam_timeout)\n" in err.text


async def test_the_service_is_named_by_the_environment(build, receiver):
    telemetry = build(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, OTEL_SERVICE_NAME="edge-1")
    serve(telemetry)
    await telemetry.aclose()
    names = {item.key: item.value.string_value for item in receiver.resources[0].attributes}
    assert names["service.name"] == "edge-1"


async def test_workers_can_be_shown_as_one(build):
    telemetry = build()
    serve(telemetry)
    other = json.loads(json.dumps(telemetry.snapshot()))
    counted = b'gateway_authz_decisions_total{code="",outcome="allow",route="inventory"} '
    assert counted + b"1.0" in telemetry.exposition()[0]
    assert counted + b"2.0" in exposition([telemetry.snapshot(), other])[0]
    await telemetry.aclose()
