"""Which trace a request belongs to is decided by whom we trust, and sampling by the standard names."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.observer import NO_SPAN
from gateway.telemetry.otlp.choice import Choice, Transport, choose
from gateway.telemetry.tracing import Parent, PropagatingObserver, parent_of, parse, sampler_of
from tests.telemetry.conftest import PARENT, SPAN, TRACE, UNSAMPLED_PARENT, record, request

FRESH = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-00")


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (PARENT, True),
        (UNSAMPLED_PARENT, False),
        (f"00-{TRACE}-{SPAN}-03".encode(), True),
        (f"00-{TRACE}-{SPAN}-02".encode(), False),
        (f"cc-{TRACE}-{SPAN}-01".encode(), True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later".encode(), True),
    ],
)
def test_well_formed_parents(value, sampled):
    assert parse(value) == Parent(TRACE, SPAN, sampled, value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00-zz-zz-01",
        PARENT.upper(),
        PARENT + b"-more",
        PARENT + b" ",
        b" " + PARENT,
        PARENT[:-1],
        b"ff" + PARENT[2:],
        f"00-{'0' * 32}-{SPAN}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        f"00-{TRACE}-{SPAN}-0g".encode(),
        f"00_{TRACE}_{SPAN}_01".encode(),
        f"cc-{TRACE}-{SPAN}-01.x".encode(),
        PARENT + b"\n",
    ],
)
def test_malformed_parents(value):
    assert parse(value) is None


@given(st.binary(max_size=80))
def test_any_bytes_are_a_parent_or_none(value):
    parse(value)


def test_a_parent_is_believed_from_trusted_peers_only():
    assert parent_of(request(PARENT, trusted=True)).trace_id == TRACE
    assert parent_of(request(PARENT, trusted=False)) is None
    assert parent_of(request(PARENT, PARENT, trusted=True)) is None
    assert parent_of(request(trusted=True)) is None


def test_without_a_tracer_a_trusted_parent_passes_unchanged():
    made = record(trace_id="", span_id="")
    span = PropagatingObserver().request_started(request(PARENT, trusted=True), made)
    assert (span.traceparent, span.sampled) == (PARENT, False)
    assert (made.trace_id, made.span_id) == (TRACE, SPAN)


@pytest.mark.parametrize("headers", [(), (PARENT,), (b"00-zz-zz-01",)])
def test_without_a_tracer_everybody_else_gets_a_fresh_unsampled_one(headers):
    made = record(trace_id="", span_id="")
    span = PropagatingObserver().request_started(request(*headers), made)
    assert FRESH.fullmatch(span.traceparent)
    assert span.traceparent == f"00-{made.trace_id}-{made.span_id}-00".encode()
    assert made.trace_id != TRACE


def test_the_record_says_who_asked_for_what():
    made = record(request_id="", method="", path="", client="")
    PropagatingObserver().request_started(request(raw=b"/a/%20b\xc3?token=x", method="PUT"), made)
    assert (made.request_id, made.method, made.path, made.client) == ("r-1", "PUT", "/a/%20b\xc3", "192.0.2.7")
    assert made.scheme == "http"


def test_what_is_below_a_request_goes_on_in_its_trace():
    observer = PropagatingObserver()
    span = observer.request_started(request(), record())
    assert observer.authorize_started(span) is span
    assert observer.iam_call_started(2, [span, NO_SPAN]) is span
    assert observer.attempt_started(span, "inventory", "GET", 1) is span
    assert observer.iam_call_started(1, []) is NO_SPAN


SAMPLED, UNSAMPLED = Parent(TRACE, SPAN, sampled=True, raw=PARENT), Parent(TRACE, SPAN, sampled=False, raw=PARENT)
LOW, HIGH = 1, (1 << 64) - 1


@pytest.mark.parametrize(
    ("name", "argument", "decisions"),
    [
        # new trace with low id, with high id, below a sampled parent, below an unsampled one
        ("", "", (True, True, True, False)),
        ("parentbased_always_on", "", (True, True, True, False)),
        ("always_on", "", (True, True, True, True)),
        ("always_off", "", (False, False, False, False)),
        ("parentbased_always_off", "", (False, False, True, False)),
        ("traceidratio", "0.5", (True, False, True, True)),
        ("parentbased_traceidratio", "0.5", (True, False, True, False)),
        ("parentbased_traceidratio", "0", (False, False, True, False)),
        ("parentbased_traceidratio", "1", (True, True, True, False)),
        ("parentbased_traceidratio", "", (True, True, True, False)),
        ("PARENTBASED_ALWAYS_OFF", "", (False, False, True, False)),
    ],
)
def test_the_standard_samplers(name, argument, decisions):
    sampler = sampler_of({"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument})
    assert (
        sampler(LOW, None),
        sampler(HIGH, None),
        sampler(LOW, SAMPLED),
        sampler(LOW, UNSAMPLED),
    ) == decisions


@pytest.mark.parametrize(
    ("name", "argument"), [("xray", ""), ("traceidratio", "many"), ("traceidratio", "7"), ("traceidratio", "nan")]
)
def test_an_unknown_sampler_is_said_and_means_the_default(name, argument, caplog):
    sampler = sampler_of({"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument})
    assert sampler(HIGH, None)
    assert "OTEL_TRACES_SAMPLER" in caplog.text


BASE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("environ", "choice"),
    [
        ({}, Choice(None, None, collect=True)),
        (BASE, Choice(Transport.HTTP, Transport.HTTP, collect=True)),
        (BASE | {"OTEL_SDK_DISABLED": "true"}, Choice(None, None, collect=True)),
        (BASE | {"OTEL_SDK_DISABLED": "TRUE"}, Choice(None, None, collect=True)),
        (BASE | {"OTEL_SDK_DISABLED": "1"}, Choice(Transport.HTTP, Transport.HTTP, collect=True)),
        (BASE | {"OTEL_TRACES_EXPORTER": "none"}, Choice(None, Transport.HTTP, collect=True)),
        (BASE | {"OTEL_METRICS_EXPORTER": "none"}, Choice(Transport.HTTP, None, collect=False)),
        (BASE | {"OTEL_METRICS_EXPORTER": "prometheus"}, Choice(Transport.HTTP, None, collect=True)),
        (BASE | {"OTEL_METRICS_EXPORTER": "otlp,prometheus"}, Choice(Transport.HTTP, Transport.HTTP, collect=True)),
        (BASE | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, Choice(Transport.GRPC, Transport.GRPC, collect=True)),
        (BASE | {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, Choice(Transport.GRPC, Transport.HTTP, collect=True)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x/v1/traces"}, Choice(Transport.HTTP, None, collect=True)),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x/v1/m"}, Choice(None, Transport.HTTP, collect=True)),
        ({"OTEL_TRACES_EXPORTER": "console"}, Choice(Transport.CONSOLE, None, collect=True)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, Choice(None, None, collect=True)),
    ],
)
def test_what_is_exported_is_what_the_standard_variables_say(environ, choice):
    assert choose(environ) == choice


@pytest.mark.parametrize(
    "environ", [{"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, {"OTEL_TRACES_EXPORTER": "zipkin,none"}]
)
def test_what_is_not_known_is_said_and_off(environ, caplog):
    assert choose(BASE | environ).traces is None
    assert "is not known here" in caplog.text
