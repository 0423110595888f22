"""Trace ids without a tracer: every request has one in the log, whether spans are recorded or not.

Rules: a trusted caller's `traceparent` passes on unchanged; without one the request gets a new, unsampled one. An
unsampled span stands for all spans below it, so that a request that is not recorded makes one object in all.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.model.record import AccessRecord
from gateway.model.request import Request
from gateway.telemetry.observer import NO_SPAN, Observer, Span
from gateway.telemetry.trace_context import Parent, new_span, new_trace, parent_of, unsampled


class PropagatingObserver(Observer):
    """Gives every request its ids. Records nothing."""

    def request_started(self, request: Request, record: AccessRecord) -> Span:
        """See Observer."""
        introduce(request, record)
        parent = parent_of(request)
        if parent is not None:
            return passing(parent, record)
        return unrecorded(new_trace(), None, record)

    def authorize_started(self, parent: Span) -> Span:
        """See Observer."""
        return parent

    def iam_call_started(
        self, size: int, links: Sequence[Span], operation: str = "POST /access/v1/evaluations"
    ) -> Span:
        """See Observer. A shared call goes on in the trace of the first who needed it."""
        return links[0] if links else NO_SPAN

    def attempt_started(self, parent: Span, upstream: str, method: str, attempt: int) -> Span:
        """See Observer."""
        return parent


def introduce(request: Request, record: AccessRecord) -> None:
    """Write down who asks for what. The query is left out: it may hold secrets."""
    record.request_id = request.request_id
    record.method = request.method
    record.path = request.target.raw.partition(b"?")[0].partition(b"#")[0].decode("latin-1")
    record.client = request.client
    record.scheme = request.scheme


def passing(parent: Parent, record: AccessRecord) -> Span:
    """The caller's own span, passed through."""
    record.trace_id, record.span_id = parent.trace_id, parent.span_id
    return Span(parent.raw)


def unrecorded(trace_id: str, parent: Parent | None, record: AccessRecord) -> Span:
    """A span of ours that nobody records, in the caller's trace or in a new one."""
    record.trace_id = trace_id if parent is None else parent.trace_id
    record.span_id = new_span()
    return Span(unsampled(record.trace_id, record.span_id))


def path_of(target: bytes) -> str:
    """The path of a refused target of whatever form: what else it has (user, query, fragment) may be secret."""
    path = target.partition(b"?")[0].partition(b"#")[0]
    if not path.startswith(b"/"):
        _, absolute, rest = path.partition(b"://")
        path = b"/" + rest.partition(b"/")[2] if absolute else b""
    return path.decode("latin-1")
