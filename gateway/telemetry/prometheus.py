"""A snapshot of the metrics as Prometheus text, or as OpenMetrics with exemplars.

Rule: names are translated as OpenTelemetry says for Prometheus: dots become underscores, the unit is a suffix, counters
end in `_total`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, Final

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS_TYPE
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Exemplar as PrometheusExemplar

from gateway.telemetry.instruments import INSTRUMENTS, Instrument, InstrumentKind
from gateway.telemetry.store import Exemplar, Labels, Snapshot

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
CONTENT_TYPE_OPENMETRICS: Final = OPENMETRICS_TYPE
_SUFFIXES: Final = {"s": "_seconds"}

Exemplars = Mapping[str, Mapping[Labels, Mapping[int, Exemplar]]]


def prometheus_name(instrument: Instrument) -> str:
    """The name in Prometheus text, for counters without the `_total` that its samples have."""
    return instrument.name.replace(".", "_") + _SUFFIXES.get(instrument.unit, "")


def text(snapshot: Snapshot) -> bytes:
    """Prometheus text format 0.0.4."""
    return generate_latest(_registry(snapshot, {}))


def openmetrics(snapshot: Snapshot, exemplars: Exemplars) -> bytes:
    """OpenMetrics 1.0, with exemplars."""
    made: bytes = generate_openmetrics(_registry(snapshot, exemplars))  # type: ignore[no-untyped-call]
    return made


def _registry(snapshot: Snapshot, exemplars: Exemplars) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Reading(snapshot, exemplars))
    return registry


class _Reading(Collector):
    """One snapshot, read once."""

    def __init__(self, snapshot: Snapshot, exemplars: Exemplars) -> None:
        self._snapshot = snapshot
        self._exemplars = exemplars

    def collect(self) -> Iterator[Metric]:
        """Every metric of the table, also those without values: their name and help are shown all the same."""
        for instrument in INSTRUMENTS:
            yield self._family(instrument, self._snapshot.get(instrument.name, []))

    def _family(self, instrument: Instrument, cells: list[list[Any]]) -> Metric:
        name, about = prometheus_name(instrument), instrument.description
        labels = [label.replace(".", "_") for label in instrument.labels]
        if instrument.kind is InstrumentKind.HISTOGRAM:
            return self._histogram(HistogramMetricFamily(name, about, labels=labels), instrument, cells)
        make = CounterMetricFamily if instrument.kind is InstrumentKind.COUNTER else GaugeMetricFamily
        family = make(name, about, labels=labels)
        for values, number in cells:
            family.add_metric(values, number)
        return family

    def _histogram(
        self, family: HistogramMetricFamily, instrument: Instrument, cells: list[list[Any]]
    ) -> HistogramMetricFamily:
        known = self._exemplars.get(instrument.name, {})
        bounds = [*(_bound(bound) for bound in instrument.bounds), "+Inf"]
        for values, (counts, total) in cells:
            shown = known.get(tuple(values), {})
            family.add_metric(
                values,
                [
                    (bound, count, _exemplar(shown[index])) if index in shown else (bound, count)
                    for index, (bound, count) in enumerate(zip(bounds, accumulate(counts), strict=True))
                ],
                total,
            )
        return family


def _bound(value: float) -> str:
    return repr(float(value))


def _exemplar(exemplar: Exemplar) -> PrometheusExemplar:
    return PrometheusExemplar(
        {"trace_id": exemplar.trace_id, "span_id": exemplar.span_id}, exemplar.value, exemplar.at_s
    )
