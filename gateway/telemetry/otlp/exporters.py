"""The exporters of both signals, and the resource that all of it belongs to.

The exporters read endpoints, headers, certificates, compression and timeouts from the environment by themselves.
"""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Mapping
from typing import cast

from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter
from opentelemetry.util.types import AttributeValue

from gateway import __version__
from gateway.telemetry.otlp.choice import Transport

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
