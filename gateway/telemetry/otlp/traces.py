"""A tracer of the SDK whose spans leave in batches, from a bounded queue, in a thread of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Tracer

from gateway import __version__
from gateway.telemetry.spans import RootIds


class TracePipe:
    """Tracer, queue and exporter. The SDK is asked only for what is sampled already, hence ALWAYS_ON."""

    def __init__(self, exporter: SpanExporter, resource: Resource, dropped: Callable[[int], None]) -> None:
        self.ids = RootIds()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON, resource=resource, id_generator=_Ids(self.ids), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(_Counting(exporter, dropped)))

    @property
    def tracer(self) -> Tracer:
        """Where spans are made."""
        return self._provider.get_tracer("gateway", __version__)

    def shutdown(self) -> None:
        """Export what waits, then end. May take as long as the exporter's timeout: call it from a thread."""
        self._provider.shutdown()


class _Ids(RandomIdGenerator):
    """Random span ids; trace ids from where the decision to sample was made."""

    def __init__(self, ids: RootIds) -> None:
        self._ids = ids

    def generate_trace_id(self) -> int:
        """The id that was sampled."""
        return self._ids.next_trace_id or super().generate_trace_id()


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
