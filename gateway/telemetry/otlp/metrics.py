"""The store's values as OTLP metrics, sent every `OTEL_METRIC_EXPORT_INTERVAL` (60 s) from a thread of their own.

Rules: cumulative since start, the same values and buckets as `/metrics`; a label without a value is left out. Delta
temporality is deliberately absent: the values are kept once, as sums.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from opentelemetry.sdk.metrics import Exemplar as OtlpExemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
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
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from gateway import __version__
from gateway.telemetry.instruments import INSTRUMENTS, Instrument, InstrumentKind
from gateway.telemetry.store import Store

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
