"""The spans of a request: their tree, their links, what is an error, and what may not stand in them."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from gateway.telemetry.observer import NO_SPAN, Server
from gateway.telemetry.otlp.exporters import readable
from gateway.telemetry.spans import RecordedSpan, SpansObserver
from gateway.telemetry.tracing import sampler_of
from tests.telemetry.conftest import PARENT, SPAN, TOKEN, TRACE, UNSAMPLED_PARENT, record, request


class Exported:
    """What was exported, in the SDK's own form."""

    def __init__(self):
        self.spans: list[ReadableSpan] = []

    def take(self, span: RecordedSpan) -> None:
        self.spans.append(readable(span, Resource({})))

    def get_finished_spans(self) -> tuple[ReadableSpan, ...]:
        return tuple(self.spans)


@pytest.fixture
def exported():
    return Exported()


@pytest.fixture
def make(exported):
    def made(sampler: str = "parentbased_always_on", argument: str = "") -> SpansObserver:
        return SpansObserver(
            exported.take, sampler_of({"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument})
        )

    return made


@pytest.fixture
def observer(make):
    return make()


def only(exported, name: str):
    (span,) = [span for span in exported.get_finished_spans() if span.name == name]
    return span


def ids(span) -> tuple[str, str]:
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def serve(observer, asked=None, **changes) -> None:
    """A request from its beginning to its end."""
    made = record(trace_id="", span_id="", **changes)
    span = observer.request_started(asked or request(), made)
    authorize = observer.authorize_started(span)
    call = observer.iam_call_started(3, [authorize])
    observer.iam_call_ended(call, 3, "", 0.001)
    authorize.set("gateway.authz.outcome", "allow")
    authorize.end()
    attempt = observer.attempt_started(span, "inventory", "GET", 1)
    observer.attempt_ended(attempt, "inventory", "GET", 200, "", 0.01)
    observer.request_ended(made, span)


def test_a_request_is_a_tree_of_four_spans(observer, exported):
    serve(observer)
    server, authorize = only(exported, "GET /inventory/*"), only(exported, "authorize")
    call, attempt = only(exported, "POST /access/v1/evaluations"), only(exported, "GET")
    assert [span.kind for span in (server, authorize, call, attempt)] == [
        SpanKind.SERVER,
        SpanKind.INTERNAL,
        SpanKind.CLIENT,
        SpanKind.CLIENT,
    ]
    assert server.parent is None
    assert authorize.parent.span_id == attempt.parent.span_id == server.context.span_id
    assert call.parent.span_id == authorize.context.span_id
    assert [link.context.span_id for link in call.links] == [authorize.context.span_id]
    assert len({span.context.trace_id for span in exported.get_finished_spans()}) == 1
    assert authorize.attributes["gateway.authz.outcome"] == "allow"
    assert attempt.attributes["gateway.upstream"] == "inventory"
    assert server.attributes["http.route"] == "/inventory/*"
    assert server.attributes["http.response.status_code"] == 200


def test_a_client_span_says_who_was_asked(observer, exported):
    made, server = record(trace_id="", span_id=""), Server("shop.test", "8080", "http://shop.test:8080")
    span = observer.request_started(request(), made)
    attempt = observer.attempt_started(span, "shop", "GET", 1)
    observer.attempt_ended(attempt, "shop", "GET", 200, "", 0.01, server)
    call = observer.iam_call_started(1, [span])
    observer.iam_call_ended(call, 1, "iam_error", 0.01, 503, Server("iam.test", "443", "https://iam.test:443"))
    asked, iam = only(exported, "GET").attributes, only(exported, "POST /access/v1/evaluations").attributes
    assert (asked["server.address"], asked["server.port"]) == ("shop.test", 8080)
    assert (iam["server.address"], iam["server.port"], iam["http.response.status_code"]) == ("iam.test", 443, 503)
    assert iam["url.full"] == "https://iam.test:443/access/v1/evaluations"


def test_what_is_sent_on_names_the_span_that_sends(observer, exported):
    made = record()
    span = observer.request_started(request(), made)
    attempt = observer.attempt_started(span, "inventory", "GET", 1)
    observer.attempt_ended(attempt, "inventory", "GET", 200, "", 0.01)
    trace_id, span_id = ids(only(exported, "GET"))
    assert attempt.traceparent == f"00-{trace_id}-{span_id}-01".encode()
    observer.request_ended(made, span)
    assert (made.trace_id, made.span_id) == ids(only(exported, "GET /inventory/*"))


def test_a_trusted_parent_is_the_parent(observer, exported):
    serve(observer, request(PARENT, trusted=True))
    server = only(exported, "GET /inventory/*")
    assert ids(server)[0] == TRACE
    assert f"{server.parent.span_id:016x}" == SPAN
    assert server.parent.is_remote


def test_nobody_else_joins_a_trace_or_forces_sampling(make, exported):
    serve(make(), request(PARENT, trusted=False))
    assert only(exported, "GET /inventory/*").parent is None
    exported.spans.clear()
    serve(make("parentbased_always_off"), request(PARENT, trusted=False))
    assert exported.get_finished_spans() == ()


def test_ten_requests_that_share_a_call_are_all_linked(observer, exported):
    spans = [observer.authorize_started(observer.request_started(request(), record())) for _ in range(10)]
    observer.iam_call_ended(observer.iam_call_started(10, spans), 10, "", 0.001)
    call = only(exported, "POST /access/v1/evaluations")
    assert [link.context.span_id for link in call.links] == [span.span_id for span in spans]
    assert len({link.context.trace_id for link in call.links}) == 10
    assert call.parent.span_id == spans[0].span_id
    assert call.attributes["gateway.iam.batch.size"] == 10


def test_a_shared_call_belongs_to_the_first_sampled_request(make, exported):
    observer = make("parentbased_always_on")
    unsampled = observer.request_started(request(UNSAMPLED_PARENT, trusted=True), record())
    sampled = observer.request_started(request(), record())
    call = observer.iam_call_started(2, [unsampled, NO_SPAN, sampled])
    observer.iam_call_ended(call, 2, "iam_timeout", 2)
    span = only(exported, "POST /access/v1/evaluations")
    assert [link.context.span_id for link in span.links] == [sampled.span_id]
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "iam_timeout")
    assert observer.iam_call_started(1, [unsampled]) is unsampled


def test_a_request_that_is_not_sampled_makes_one_object(make, exported):
    observer = make("always_off")
    made = record(trace_id="", span_id="")
    span = observer.request_started(request(), made)
    assert span.traceparent == f"00-{made.trace_id}-{made.span_id}-00".encode()
    assert observer.authorize_started(span) is span
    assert observer.iam_call_started(1, [span]) is span
    assert observer.attempt_started(span, "inventory", "GET", 1) is span
    observer.attempt_ended(span, "inventory", "GET", 200, "", 1)
    observer.iam_call_ended(span, 1, "", 1)
    observer.request_ended(made, span)
    assert exported.get_finished_spans() == ()


def test_an_unsampled_parent_goes_on_in_its_trace(observer, exported):
    made = record(trace_id="", span_id="")
    span = observer.request_started(request(UNSAMPLED_PARENT, trusted=True), made)
    assert made.trace_id == TRACE
    assert span.traceparent == f"00-{TRACE}-{made.span_id}-00".encode()
    assert made.span_id != SPAN


def test_half_of_the_traces_are_half_of_the_traces(make, exported):
    observer = make("parentbased_traceidratio", "0.5")
    for _ in range(400):
        made = record()
        observer.request_ended(made, observer.request_started(request(), made))
    finished = exported.get_finished_spans()
    assert 100 < len(finished) < 300
    assert all(span.context.trace_id & ((1 << 64) - 1) < 1 << 63 for span in finished)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"status": 200}, None),
        ({"status": 403, "code": "iam_denied"}, None),
        ({"status": 404, "code": "route_not_found"}, None),
        ({"status": 503, "code": "iam_circuit_open"}, "iam_circuit_open"),
        ({"status": 502}, "502"),
        ({"status": 0, "client_left": True}, None),
        ({"status": 502, "client_left": True}, None),
    ],
)
def test_what_is_an_error_of_the_server(observer, exported, changes, error):
    made = record(**changes)
    observer.request_ended(made, observer.request_started(request(), made))
    (span,) = exported.get_finished_spans()
    assert span.status.status_code is (StatusCode.ERROR if error else StatusCode.UNSET)
    assert span.attributes.get("error.type") == error
    assert ("http.response.status_code" in span.attributes) == bool(changes["status"])


@pytest.mark.parametrize(("status", "code", "error"), [(404, "", "404"), (0, "upstream_timeout", "upstream_timeout")])
def test_what_is_an_error_of_a_call(observer, exported, status, code, error):
    span = observer.request_started(request(), record())
    observer.attempt_ended(observer.attempt_started(span, "x", "GET", 2), "x", "GET", status, code, 1)
    attempt = only(exported, "GET")
    assert (attempt.status.status_code, attempt.attributes["error.type"]) == (StatusCode.ERROR, error)
    assert attempt.attributes["http.request.resend_count"] == 1


async def test_circuits_and_retries_are_events_of_the_request_that_saw_them(observer, exported):
    async def one(name: str) -> None:
        made = record(path_template=f"/{name}")
        span = observer.request_started(request(), made)
        await asyncio.sleep(0)
        observer.circuit(name, "iam", "closed", "open", "5 consecutive failures")
        observer.retry(name, 2, 3, "iam_timeout")
        await asyncio.sleep(0)
        observer.request_ended(made, span)

    await asyncio.gather(*(asyncio.create_task(one(name)) for name in ("a", "b")))
    for name in ("a", "b"):
        events = only(exported, f"GET /{name}").events
        assert [(event.name, event.attributes.get("circuit", name)) for event in events] == [
            ("circuit", name),
            ("retry", name),
        ]
        assert (events[0].attributes["before"], events[0].attributes["after"]) == ("closed", "open")


def test_a_span_ends_once_and_holds_no_more_than_its_events(observer, exported):
    span = observer.request_started(request(), record())
    for number in range(1000):
        span.event("retry", attempt=number)
    span.end()
    span.end(error="late")
    (ended,) = exported.get_finished_spans()
    assert len(ended.events) == 128
    assert ended.status.status_code is StatusCode.UNSET


def test_an_event_outside_of_a_request_or_after_its_end_is_no_error(observer, exported, caplog):
    observer.circuit("iam", "iam", "closed", "open", "x")
    made = record()
    span = observer.request_started(request(), made)
    observer.request_ended(made, span)
    observer.circuit("iam", "iam", "open", "half_open", "x")
    span.event("degraded", mode="stale")
    assert list(only(exported, "GET /inventory/*").events) == []
    assert caplog.text == ""


@pytest.mark.parametrize(("method", "shown"), [("GET", "GET"), ("FOO\n", "HTTP")])
def test_names_come_from_closed_lists(observer, exported, method, shown):
    made = record(method=method, route="", path_template="", status=404)
    observer.request_ended(made, observer.request_started(request(method=method), made))
    assert exported.get_finished_spans()[0].name == shown


def test_no_path_no_query_no_token_stands_in_a_span(observer, exported):
    serve(observer, request(raw=b"/secret-path?access_token=" + TOKEN.encode()))
    text = "".join(span.to_json() for span in exported.get_finished_spans())
    assert TOKEN not in text
    assert "secret-path" not in text
