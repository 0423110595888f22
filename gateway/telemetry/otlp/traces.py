"""Recorded spans on their way out: the SDK's bounded queue, batches and exporter, in a thread of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
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
_DEFAULT_QUEUE: Final = 2048
_LEAST_QUEUE: Final = 512
"""A batch of the SDK must fit into it."""


class TracePipe:
    """Queue and exporter. `dropped` is told how many spans were not delivered, for whatever reason.

    The SDK's own queue drops in silence, so it is never given more than it holds: what is too many is dropped here, and
    costs nothing more. `_taken` is written by the event loop alone, what the exporter has settled by its thread alone.
    """

    def __init__(self, exporter: SpanExporter, resource: Resource, dropped: Callable[[int], None]) -> None:
        self._resource = resource
        self._dropped = dropped
        self._exporting = _Counting(exporter, dropped)
        self._taken = 0
        self._room = queue_size(os.environ)
        self._processor = BatchSpanProcessor(self._exporting, max_queue_size=self._room)

    def take(self, span: RecordedSpan) -> None:
        """Queue a span that is over. Never waits; with a full queue it is dropped."""
        if self._taken - self._exporting.settled >= self._room:
            self._dropped(1)
            return
        self._taken += 1
        self._processor.on_end(readable(span, self._resource))

    def shutdown(self) -> None:
        """Export what waits, then end. May take as long as the exporter's timeout: call it from a thread."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK has no types here
        self._dropped(self._taken - self._exporting.settled)


def queue_size(environ: Mapping[str, str]) -> int:
    """`OTEL_BSP_MAX_QUEUE_SIZE`; what is no number is the default, what is smaller than a batch is a batch."""
    size = environ.get("OTEL_BSP_MAX_QUEUE_SIZE", "").strip()
    batch = environ.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "").strip()
    least = int(batch) if batch.isdigit() else _LEAST_QUEUE
    return max(int(size) if size.isdigit() else _DEFAULT_QUEUE, least)


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
        self.settled = 0
        """Spans that were delivered or given up."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See SpanExporter."""
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if result is not SpanExportResult.SUCCESS:
                self._dropped(len(spans))
            self.settled += len(spans)
        return result

    def shutdown(self) -> None:
        """See SpanExporter."""
        self._exporter.shutdown()
