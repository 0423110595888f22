"""Recorded spans on their way out: the SDK's bounded queue, batches and exporter, in a thread of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gateway import __version__
from gateway.telemetry.spans import CLIENT, INTERNAL, SERVER, RecordedSpan

_KINDS: Final = {SERVER: SpanKind.SERVER, INTERNAL: SpanKind.INTERNAL, CLIENT: SpanKind.CLIENT}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope("gateway", __version__)
_UNSET: Final = Status(StatusCode.UNSET)
_ERROR: Final = Status(StatusCode.ERROR)


class TracePipe:
    """Queue and exporter. `dropped` is told how many spans the exporter could not deliver."""

    def __init__(self, exporter: SpanExporter, resource: Resource, dropped: Callable[[int], None]) -> None:
        self._resource = resource
        self._processor = BatchSpanProcessor(_Counting(exporter, dropped))

    def take(self, span: RecordedSpan) -> None:
        """Queue a span that is over. Never waits; with a full queue the oldest is dropped."""
        self._processor.on_end(readable(span, self._resource))

    def shutdown(self) -> None:
        """Export what waits, then end. May take as long as the exporter's timeout: call it from a thread."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK has no types here


def readable(span: RecordedSpan, resource: Resource) -> ReadableSpan:
    """The span in the SDK's data model."""
    return ReadableSpan(
        name=span.name,
        context=_context(span.trace_id, span.span_id, remote=False),
        parent=_context(span.trace_id, span.parent, remote=span.parent_is_remote) if span.parent else None,
        resource=resource,
        attributes=span.attributes,
        events=[Event(name, attributes, at_ns) for name, at_ns, attributes in span.events],
        links=[Link(_context(link.trace_id, link.span_id, remote=False)) for link in span.links],
        kind=_KINDS[span.kind],
        status=_ERROR if span.error else _UNSET,
        start_time=span.started_ns,
        end_time=span.ended_ns,
        instrumentation_scope=_SCOPE,
    )


def _context(trace_id: int, span_id: int, *, remote: bool) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=remote, trace_flags=_SAMPLED)


class _Counting(SpanExporter):
    """Counts what the exporter could not deliver."""

    def __init__(self, exporter: SpanExporter, dropped: Callable[[int], None]) -> None:
        self._exporter = exporter
        self._dropped = dropped

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See SpanExporter."""
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._dropped(len(spans))
        return result

    def shutdown(self) -> None:
        """See SpanExporter."""
        self._exporter.shutdown()
