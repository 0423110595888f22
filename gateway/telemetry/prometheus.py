"""A snapshot of the metrics as Prometheus text, or as OpenMetrics for who asks for it: only that has exemplars.

Rule: names are translated as OpenTelemetry says for Prometheus: dots become underscores, the unit is a suffix, counters
end in `_total`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Final

from prometheus_client import generate_latest, openmetrics
from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from gateway.telemetry.instruments import INSTRUMENTS, Instrument, InstrumentKind
from gateway.telemetry.store import Snapshot

_SUFFIXES: Final = {"s": "_seconds"}
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_OPEN_METRICS: Final = "application/openmetrics-text"


def prometheus_name(instrument: Instrument) -> str:
    """The name in Prometheus text, for counters without the `_total` that its samples have."""
    return instrument.text_name or instrument.name.replace(".", "_") + _SUFFIXES.get(instrument.unit, "")


def exposition(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """The text and its media type, by what an `Accept` field asks for."""
    if _OPEN_METRICS in accept.lower():
        return open_metrics(snapshot), f"{_OPEN_METRICS}; version=1.0.0; charset=utf-8"
    return text(snapshot), _TEXT


def text(snapshot: Snapshot) -> bytes:
    """Prometheus text, format 0.0.4."""
    return generate_latest(_registry(snapshot))


def open_metrics(snapshot: Snapshot) -> bytes:
    """OpenMetrics 1.0, with the traces of measured requests as exemplars."""
    shown: bytes = openmetrics.exposition.generate_latest(_registry(snapshot))  # type: ignore[no-untyped-call]
    return shown


def _registry(snapshot: Snapshot) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Reading(snapshot))
    return registry


class _Reading(Collector):
    """One snapshot, read once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Every metric of the table, also those without values: their name and help are shown all the same."""
        for instrument in INSTRUMENTS:
            yield _family(instrument, self._snapshot.get(instrument.name, []))


def _family(instrument: Instrument, cells: list[list[Any]]) -> Metric:
    name, about = prometheus_name(instrument), instrument.description
    labels = [label.replace(".", "_") for label in instrument.labels]
    if instrument.kind is InstrumentKind.HISTOGRAM:
        return _histogram(HistogramMetricFamily(name, about, labels=labels), instrument, cells)
    make = CounterMetricFamily if instrument.kind is InstrumentKind.COUNTER else GaugeMetricFamily
    family = make(name, about, labels=labels)
    for values, number in cells:
        family.add_metric(values, number)
    return family


def _histogram(family: HistogramMetricFamily, instrument: Instrument, cells: list[list[Any]]) -> HistogramMetricFamily:
    bounds = [*(repr(bound) for bound in instrument.bounds), "+Inf"]
    for values, (counts, total, exemplars) in cells:
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = list(
            zip(bounds, accumulate(counts), strict=True)
        )
        for bucket, *exemplar in exemplars:
            buckets[bucket] = (*buckets[bucket][:2], _exemplar(*exemplar))
        family.add_metric(values, buckets, total)
    return family


def _exemplar(value: float, trace_id: str, span_id: str, at_s: float) -> Exemplar:
    return Exemplar({"trace_id": trace_id, "span_id": span_id}, value, at_s)
