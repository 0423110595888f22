"""Spans: SERVER → INTERNAL `authorize` → CLIENT to IAM, and a CLIENT for each attempt at an upstream.

Rules: names and attributes are route templates, names of the configuration and codes, never a raw path, a query, a
header or a subject; a 403 is not an error, a caller who left is not one, a 5xx is; one call to IAM is one span, whoever
shares it, in the trace of the first sampled request and with a link to each. Whether a request is recorded is decided
once, before anything is made for it.

Only the API of OpenTelemetry is used here; where spans go is `otlp`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer

from gateway.model.record import AccessRecord
from gateway.model.request import Request
from gateway.telemetry.metrics import KNOWN_METHODS, error_type, status_of
from gateway.telemetry.observer import NO_SPAN, Observer, Span
from gateway.telemetry.propagation import introduce, unrecorded
from gateway.telemetry.sampling import Sampler
from gateway.telemetry.trace_context import Parent, new_trace_id, parent_of

_ROOT: Final = Context()
_CLIENT_ERRORS_FROM: Final = 400

_current: ContextVar[RecordedSpan | None] = ContextVar("gateway_span", default=None)
"""The recorded SERVER span of the request that runs: where changes of circuits and retries are told."""


class RootIds:
    """The trace id of the next root span: it was needed before, to decide whether there is a span."""

    __slots__ = ("next_trace_id",)

    def __init__(self) -> None:
        self.next_trace_id = 0


class RecordedSpan(Span):
    """A span that is recorded and exported."""

    __slots__ = ("context", "otel")

    sampled = True

    def __init__(self, otel: trace.Span) -> None:
        context = otel.get_span_context()
        super().__init__(f"00-{context.trace_id:032x}-{context.span_id:016x}-01".encode())
        self.otel = otel
        self.context = context

    def set(self, name: str, value: str | float) -> None:
        """See Span."""
        self.otel.set_attribute(name, value)

    def event(self, name: str, **attributes: Any) -> None:
        """See Span. A span that is over takes no more events."""
        if self.otel.is_recording():
            self.otel.add_event(name, attributes)

    def end(self, *, error: str = "") -> None:
        """See Span."""
        if error:
            self.otel.set_attribute("error.type", error)
            self.otel.set_status(Status(StatusCode.ERROR))
        self.otel.end()


class SpansObserver(Observer):
    """Makes the spans of what is sampled. `ids` feeds the tracer's id generator."""

    def __init__(self, tracer: Tracer, sampler: Sampler, ids: RootIds) -> None:
        self._tracer = tracer
        self._sampler = sampler
        self._ids = ids

    def request_started(self, request: Request, record: AccessRecord) -> Span:
        """See Observer. The span gets its name at its end, when the route is known."""
        introduce(request, record)
        parent = parent_of(request)
        trace_id = new_trace_id()
        if not self._sampler(trace_id, parent):
            return unrecorded(trace_id, parent, record)
        self._ids.next_trace_id = trace_id
        attributes = {
            "http.request.method": _method(request.method),
            "url.scheme": request.scheme,
            "client.address": request.client,
            "network.protocol.version": request.http_version,
            "gateway.request_id": request.request_id,
        }
        span = self._start(_method(request.method), SpanKind.SERVER, _context_of(parent), attributes)
        record.trace_id = f"{span.context.trace_id:032x}"
        record.span_id = f"{span.context.span_id:016x}"
        _current.set(span)
        return span

    def request_ended(self, record: AccessRecord, span: Span) -> None:
        """See Observer."""
        if not isinstance(span, RecordedSpan):
            return
        status = status_of(record)
        if record.path_template:
            span.otel.update_name(f"{_method(record.method)} {record.path_template}")
            span.set("http.route", record.path_template)
            span.set("gateway.route", record.route)
        if record.status:
            span.set("http.response.status_code", status)
        if record.code:
            span.set("gateway.code", record.code)
        if record.client_left:
            span.event("client_left")
        span.end(error="" if record.client_left else error_type(record, status))

    def authorize_started(self, parent: Span) -> Span:
        """See Observer."""
        if not isinstance(parent, RecordedSpan):
            return parent
        return self._start("authorize", SpanKind.INTERNAL, _below(parent), None)

    def iam_call_started(
        self, size: int, links: Sequence[Span], operation: str = "POST /access/v1/evaluations"
    ) -> Span:
        """See Observer."""
        recorded = [span for span in links if isinstance(span, RecordedSpan)]
        if not recorded:
            return links[0] if links else NO_SPAN
        method = operation.partition(" ")[0]
        attributes: dict[str, str | int] = {"http.request.method": method, "gateway.iam.batch.size": size}
        linked = [Link(span.context) for span in recorded]
        return self._start(operation, SpanKind.CLIENT, _below(recorded[0]), attributes, linked)

    def iam_call_ended(self, span: Span, size: int, code: str, duration_s: float) -> None:
        """See Observer."""
        if isinstance(span, RecordedSpan):
            span.end(error=code)

    def attempt_started(self, parent: Span, upstream: str, method: str, attempt: int) -> Span:
        """See Observer."""
        if not isinstance(parent, RecordedSpan):
            return parent
        attributes: dict[str, str | int] = {"http.request.method": _method(method), "gateway.upstream": upstream}
        if attempt > 1:
            attributes["http.request.resend_count"] = attempt - 1
        return self._start(_method(method), SpanKind.CLIENT, _below(parent), attributes)

    def attempt_ended(self, span: Span, upstream: str, method: str, status: int, code: str, duration_s: float) -> None:
        """See Observer. For a client any 4xx is an error too (semantic conventions)."""
        if not isinstance(span, RecordedSpan):
            return
        if status:
            span.set("http.response.status_code", status)
        span.end(error=code or (str(status) if status >= _CLIENT_ERRORS_FROM else ""))

    def retry(self, target: str, attempt: int, attempts: int, code: str) -> None:
        """See Observer."""
        _tell("retry", {"target": target, "attempt": attempt, "code": code})

    def circuit(self, name: str, kind: str, before: str, after: str, reason: str) -> None:
        """See Observer. Told on the request that made the change."""
        _tell("circuit", {"name": name, "from": before, "to": after, "reason": reason})

    def _start(
        self,
        name: str,
        kind: SpanKind,
        context: Context,
        attributes: Mapping[str, str | int] | None,
        links: Sequence[Link] | None = None,
    ) -> RecordedSpan:
        return RecordedSpan(
            self._tracer.start_span(name, context=context, kind=kind, attributes=attributes, links=links)
        )


def _tell(name: str, attributes: dict[str, Any]) -> None:
    span = _current.get()
    if span is not None and span.otel.is_recording():
        span.otel.add_event(name, attributes)


def _method(method: str) -> str:
    return method if method in KNOWN_METHODS else "HTTP"


def _below(parent: RecordedSpan) -> Context:
    return trace.set_span_in_context(parent.otel, _ROOT)


def _context_of(parent: Parent | None) -> Context:
    if parent is None:
        return _ROOT
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    remote = SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(NonRecordingSpan(remote), _ROOT)
