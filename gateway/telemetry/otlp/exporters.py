"""Spans and metrics on their way out: the exporters of both signals, each with a thread of its own."""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

from opentelemetry.sdk.metrics import Exemplar as OtlpExemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ConsoleMetricExporter,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from gateway import __version__
from gateway.telemetry.instruments import INSTRUMENTS, Instrument, InstrumentKind
from gateway.telemetry.otlp.choice import Transport
from gateway.telemetry.spans import CLIENT, INTERNAL, SERVER, RecordedSpan
from gateway.telemetry.store import Store

# The exporters read endpoints, headers, certificates, compression and timeouts from the environment by themselves.

_PACKAGES = {
    Transport.HTTP: "opentelemetry.exporter.otlp.proto.http",
    Transport.GRPC: "opentelemetry.exporter.otlp.proto.grpc",
}


class ExporterMissing(Exception):
    """The transport needs a package that is not installed."""


def resource() -> Resource:
    """Who we are: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` over our defaults. One instance a process."""
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    made = Resource.create({"service.version": __version__, "service.instance.id": str(uuid.uuid4())})
    return _Hashed(made.attributes if named else {**made.attributes, "service.name": "iam-gateway"}, made.schema_url)


class _Hashed(Resource):
    """A resource whose hash is made once: the exporter asks for it with every span, and it is a JSON document's."""

    def __init__(self, attributes: Mapping[str, AttributeValue], schema_url: str) -> None:
        super().__init__(attributes, schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or super().__eq__(other)


def span_exporter(transport: Transport) -> SpanExporter:
    """Raises ExporterMissing."""
    if transport is Transport.CONSOLE:
        return ConsoleSpanExporter()
    return cast("SpanExporter", _load(transport, "trace_exporter", "OTLPSpanExporter"))


def metric_exporter(transport: Transport) -> MetricExporter:
    """Raises ExporterMissing."""
    if transport is Transport.CONSOLE:
        return ConsoleMetricExporter()
    return cast("MetricExporter", _load(transport, "metric_exporter", "OTLPMetricExporter"))


def _load(transport: Transport, module: str, name: str) -> object:
    try:
        found = importlib.import_module(f"{_PACKAGES[transport]}.{module}")
    except ImportError:
        extra = "otlp-grpc" if transport is Transport.GRPC else "otlp"
        text = f"nothing is exported: the exporter for {transport} is not installed."
        raise ExporterMissing(f"{text} Install the extra iam-gateway[{extra}]") from None
    made: object = getattr(found, name)()
    return made


# The store's values as OTLP metrics, sent every `OTEL_METRIC_EXPORT_INTERVAL` (60 s) from a thread of their own.
#
# Rules: cumulative since start, the same values and buckets as `/metrics`; a label without a value is left out. Delta
# temporality is deliberately absent: the values are kept once, as sums.

_log: Final = logging.getLogger("gateway.telemetry")

_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE
_INTEGERS: Final = frozenset({"http.response.status_code"})
_NANO: Final = 1_000_000_000
_DEFAULT_INTERVAL_MS: Final = 60_000.0


class MetricPump:
    """Sends the store's values from time to time. `dropped` is told of each export that failed."""

    def __init__(
        self,
        exporter: MetricExporter,
        store: Store,
        resource: Resource,
        interval_s: float,
        dropped: Callable[[int], None],
    ) -> None:
        self._exporter = exporter
        self._store = store
        self._resource = resource
        self._interval_s = interval_s
        self._dropped = dropped
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gateway-metrics", daemon=True)
        self._thread.start()

    def shutdown(self) -> None:
        """Send once more, then end. May take as long as the exporter's timeout: call it from a thread."""
        self._stop.set()
        self._thread.join()
        self._send()
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._send()

    def _send(self) -> None:
        try:
            sent = self._exporter.export(metrics_data(self._store, self._resource)) is MetricExportResult.SUCCESS
        except Exception:  # noqa: BLE001 - an exporter that raises once must not end the exporting
            _log.exception("[telemetry] Metrics could not be exported")
            sent = False
        if not sent:
            self._dropped(1)


def interval_s(environ: Mapping[str, str]) -> float:
    """`OTEL_METRIC_EXPORT_INTERVAL`, which is in milliseconds; what is not a positive number is the default."""
    try:
        milliseconds = float(environ.get("OTEL_METRIC_EXPORT_INTERVAL", ""))
    except ValueError:
        milliseconds = 0.0
    return (milliseconds if milliseconds > 0 else _DEFAULT_INTERVAL_MS) / 1000


def metrics_data(store: Store, resource: Resource) -> MetricsData:
    """All values of the store as the SDK's data model."""
    metrics = list(_metrics(store))
    scope = ScopeMetrics(scope=InstrumentationScope("gateway", __version__), metrics=metrics, schema_url="")
    return MetricsData([ResourceMetrics(resource=resource, scope_metrics=[scope], schema_url="")])


def _metrics(store: Store) -> Iterable[Metric]:
    started, now = int(store.started_s * _NANO), time.time_ns()
    snapshot = store.snapshot()
    for instrument in INSTRUMENTS:
        cells = snapshot[instrument.name]
        if cells:
            data = _data(instrument, cells, started, now)
            yield Metric(name=instrument.name, description=instrument.description, unit=instrument.unit, data=data)


def _data(
    instrument: Instrument,
    cells: list[list[Any]],
    started: int,
    now: int,
) -> Sum | Gauge | Histogram:
    if instrument.kind is InstrumentKind.HISTOGRAM:
        distributions = [_distribution(instrument, labels, value, started, now) for labels, value in cells]
        return Histogram(data_points=distributions, aggregation_temporality=_CUMULATIVE)
    numbers = [NumberDataPoint(_attributes(instrument, labels), started, now, value) for labels, value in cells]
    if instrument.kind is InstrumentKind.COUNTER:
        return Sum(data_points=numbers, aggregation_temporality=_CUMULATIVE, is_monotonic=True)
    return Gauge(data_points=numbers)


def _distribution(
    instrument: Instrument,
    labels: list[str],
    value: list[Any],
    started: int,
    now: int,
) -> HistogramDataPoint:
    counts, total, exemplars = value
    return HistogramDataPoint(
        attributes=_attributes(instrument, labels),
        start_time_unix_nano=started,
        time_unix_nano=now,
        count=sum(counts),
        sum=total,
        bucket_counts=counts,
        explicit_bounds=instrument.bounds,
        min=None,  # type: ignore[arg-type]  # optional in OTLP, and not kept
        max=None,  # type: ignore[arg-type]  # as above
        exemplars=[_exemplar(*exemplar) for _, *exemplar in exemplars],
    )


def _attributes(instrument: Instrument, labels: list[str]) -> dict[str, str | int]:
    return {
        name: int(value) if name in _INTEGERS else value
        for name, value in zip(instrument.labels, labels, strict=True)
        if value
    }


def _exemplar(value: float, trace_id: str, span_id: str, at_s: float) -> OtlpExemplar:
    return OtlpExemplar(
        filtered_attributes={},
        value=value,
        time_unix_nano=int(at_s * _NANO),
        span_id=int(span_id, 16),
        trace_id=int(trace_id, 16),
    )


# Recorded spans on their way out: the SDK's bounded queue, batches and exporter, in a thread of their own.

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
