"""A snapshot of the metrics as Prometheus text (format 0.0.4, which has no exemplars: those leave by OTLP).

Rule: names are translated as OpenTelemetry says for Prometheus: dots become underscores, the unit is a suffix, counters
end in `_total`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Final

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from gateway.telemetry.instruments import INSTRUMENTS, Instrument, InstrumentKind
from gateway.telemetry.store import Snapshot

_SUFFIXES: Final = {"s": "_seconds"}


def prometheus_name(instrument: Instrument) -> str:
    """The name in Prometheus text, for counters without the `_total` that its samples have."""
    return instrument.name.replace(".", "_") + _SUFFIXES.get(instrument.unit, "")


def text(snapshot: Snapshot) -> bytes:
    """Prometheus text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Reading(snapshot))
    return generate_latest(registry)


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
    for values, (counts, total) in cells:
        family.add_metric(values, list(zip(bounds, accumulate(counts), strict=True)), total)
    return family
