"""Spans: SERVER → INTERNAL `authorize` → CLIENT to IAM, and a CLIENT for each attempt at an upstream.

Rules: names and attributes are route templates, names of the configuration and codes, never a query, a header or a
subject, and the path that was sent only in a CLIENT span's `url.full`; a 403 is not an error, a caller who left is not
one, a 5xx is; one call to IAM is one span, whoever shares it, in the trace of the first sampled request and with a link
to each. Whether a request is recorded is decided once, before anything is made for it.

Why not the SDK's tracer: a span costs 39 µs there, and here 4 µs until it is over; what follows - queue, batches,
encoding, export - is the SDK's (see `otlp`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Final

from gateway.model.request import AccessRecord, Request
from gateway.telemetry.metrics import KNOWN_METHODS, error_type, status_of
from gateway.telemetry.observer import NO_SERVER, NO_SPAN, Observer, Server, Span
from gateway.telemetry.tracing import Parent, Sampler, introduce, new_span, new_trace, parent_of, unrecorded

_CLIENT_ERRORS_FROM: Final = 400
_MAX_EVENTS: Final = 128

SERVER, INTERNAL, CLIENT = "server", "internal", "client"

Take = Callable[["RecordedSpan"], None]

_current: ContextVar[RecordedSpan | None] = ContextVar("gateway_span", default=None)
"""The recorded SERVER span of the request that runs: where changes of circuits and retries are told."""


class RecordedSpan(Span):
    """A span that is recorded and exported. Times are Unix time in nanoseconds; `ended_ns` is 0 until the end."""

    __slots__ = (
        "_take",
        "attributes",
        "ended_ns",
        "error",
        "events",
        "kind",
        "links",
        "name",
        "parent",
        "parent_is_remote",
        "span_id",
        "started_ns",
        "trace_id",
    )

    sampled = True

    def __init__(
        self,
        name: str,
        kind: str,
        trace_id: int,
        parent: int,
        attributes: dict[str, Any],
        take: Take,
        *,
        links: Sequence[RecordedSpan] = (),
        parent_is_remote: bool = False,
    ) -> None:
        """`parent` is the parent's span id, 0 for none; `take` gets the span at its end."""
        self.name = name
        self.kind = kind
        self.trace_id = trace_id
        self.span_id = int(new_span(), 16)
        self.parent = parent
        self.parent_is_remote = parent_is_remote
        self.attributes = attributes
        self.links = links
        self.events: list[tuple[str, int, dict[str, Any]]] = []
        self.error = ""
        self.ended_ns = 0
        self._take = take
        self.traceparent = b"00-%032x-%016x-01" % (trace_id, self.span_id)
        self.started_ns = time.time_ns()

    def set(self, name: str, value: str | float) -> None:
        """See Span."""
        self.attributes[name] = value

    def event(self, name: str, **attributes: Any) -> None:
        """See Span. A span that is over takes no more events."""
        if not self.ended_ns and len(self.events) < _MAX_EVENTS:
            self.events.append((name, time.time_ns(), attributes))

    def end(self, *, error: str = "") -> None:
        """See Span. Only the first end counts."""
        if self.ended_ns:
            return
        self.ended_ns = time.time_ns()
        if error:
            self.error = error
            self.attributes["error.type"] = error
        self._take(self)


class SpansObserver(Observer):
    """Makes the spans of what is sampled, and hands each to `take` when it is over."""

    def __init__(self, take: Take, sampler: Sampler) -> None:
        self._take = take
        self._sampler = sampler

    def request_started(self, request: Request, record: AccessRecord) -> Span:
        """See Observer. The span gets its name at its end, when the route is known."""
        introduce(request, record)
        parent = parent_of(request)
        digits = new_trace()
        trace_id = int(digits, 16)
        if not self._sampler(trace_id, parent):
            return unrecorded(digits, parent, record)
        span = self._root(trace_id, parent, request)
        record.trace_id = f"{span.trace_id:032x}"
        record.span_id = f"{span.span_id:016x}"
        _current.set(span)
        return span

    def request_ended(self, record: AccessRecord, span: Span) -> None:
        """See Observer."""
        if not isinstance(span, RecordedSpan):
            return
        status = status_of(record)
        if record.path_template:
            span.name = f"{span.name} {record.path_template}"
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
        return self._below(parent, "authorize", INTERNAL, {})

    def iam_call_started(
        self, size: int, links: Sequence[Span], operation: str = "POST /access/v1/evaluations"
    ) -> Span:
        """See Observer."""
        recorded = [span for span in links if isinstance(span, RecordedSpan)]
        if not recorded:
            return links[0] if links else NO_SPAN
        attributes = {"http.request.method": operation.partition(" ")[0], "gateway.iam.batch.size": size}
        return self._below(recorded[0], operation, CLIENT, attributes, recorded)

    def iam_call_ended(
        self, span: Span, size: int, code: str, duration_s: float, status: int = 0, server: Server = NO_SERVER
    ) -> None:
        """See Observer. A span that is not recorded may be the request's own, which is not over."""
        if isinstance(span, RecordedSpan):
            _answered(span, status, server)
            if server.url:
                span.set("url.full", server.url + span.name.partition(" ")[2])
            span.end(error=code)

    def attempt_started(self, parent: Span, upstream: str, method: str, attempt: int) -> Span:
        """See Observer."""
        if not isinstance(parent, RecordedSpan):
            return parent
        attributes: dict[str, Any] = {"http.request.method": _method(method), "gateway.upstream": upstream}
        if attempt > 1:
            attributes["http.request.resend_count"] = attempt - 1
        return self._below(parent, _method(method), CLIENT, attributes)

    def attempt_ended(
        self,
        span: Span,
        upstream: str,
        method: str,
        status: int,
        code: str,
        duration_s: float,
        server: Server = NO_SERVER,
    ) -> None:
        """See Observer. For a client any 4xx is an error too (semantic conventions)."""
        if not isinstance(span, RecordedSpan):
            return
        _answered(span, status, server)
        span.end(error=code or (str(status) if status >= _CLIENT_ERRORS_FROM else ""))

    def retry(self, target: str, attempt: int, attempts: int, code: str) -> None:
        """See Observer."""
        span = _current.get()
        if span is not None:
            span.event("retry", target=target, attempt=attempt, code=code)

    def circuit(self, name: str, kind: str, before: str, after: str, reason: str) -> None:
        """See Observer. Told on the request that made the change."""
        span = _current.get()
        if span is not None:
            span.event("circuit", circuit=name, before=before, after=after, reason=reason)

    def _root(self, trace_id: int, parent: Parent | None, request: Request) -> RecordedSpan:
        attributes: dict[str, Any] = {
            "http.request.method": _method(request.method),
            "url.scheme": request.scheme,
            "client.address": request.client,
            "network.protocol.version": request.http_version,
            "gateway.request_id": request.request_id,
        }
        name = _method(request.method)
        if parent is None:
            return RecordedSpan(name, SERVER, trace_id, 0, attributes, self._take)
        above, here = int(parent.trace_id, 16), int(parent.span_id, 16)
        return RecordedSpan(name, SERVER, above, here, attributes, self._take, parent_is_remote=True)

    def _below(
        self,
        parent: RecordedSpan,
        name: str,
        kind: str,
        attributes: dict[str, Any],
        links: Sequence[RecordedSpan] = (),
    ) -> RecordedSpan:
        return RecordedSpan(name, kind, parent.trace_id, parent.span_id, attributes, self._take, links=links)


def _answered(span: RecordedSpan, status: int, server: Server) -> None:
    if status:
        span.set("http.response.status_code", status)
    if server.port:
        span.set("server.address", server.address)
        span.set("server.port", int(server.port))


def _method(method: str) -> str:
    return method if method in KNOWN_METHODS else "HTTP"
