"""What the environment asks for, by the OpenTelemetry specification's own names and defaults.

Rules: off when `OTEL_SDK_DISABLED=true`; a signal is exported when its exporter is `otlp` (the default) and an endpoint
is set for it or for all, or when its exporter is `console`. The protocol is `http/protobuf` unless it says `grpc`.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_log = logging.getLogger("gateway.telemetry")


class Transport(enum.StrEnum):
    """How a signal leaves."""

    HTTP = "http/protobuf"
    GRPC = "grpc"
    CONSOLE = "console"


@dataclass(frozen=True, slots=True)
class Choice:
    """How traces and metrics leave, None for not at all. `collect`: metrics are kept (for `/metrics`) at all."""

    traces: Transport | None
    metrics: Transport | None
    collect: bool


NOT_INSTALLED: Final = "nothing is exported: OpenTelemetry is not installed. Install the extra iam-gateway[otlp]"
_NO: Final = ("none", "prometheus")


def choose(environ: Mapping[str, str]) -> Choice:
    """Read the environment. What is not known is said in the log and means off."""
    collect = _exporters(environ, "METRICS") != ["none"]
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Choice(None, None, collect)
    return Choice(_transport(environ, "TRACES"), _transport(environ, "METRICS"), collect)


def _transport(environ: Mapping[str, str], signal: str) -> Transport | None:
    exporters = [name for name in _exporters(environ, signal) if name not in _NO]
    for name in exporters:
        if name not in ("otlp", "console"):
            _log.warning("[telemetry] OTEL_%s_EXPORTER=%s is not known here", signal, name)
    if "otlp" in exporters and _endpoint(environ, signal):
        return _protocol(environ, signal)
    return Transport.CONSOLE if "console" in exporters else None


def _exporters(environ: Mapping[str, str], signal: str) -> list[str]:
    names = environ.get(f"OTEL_{signal}_EXPORTER", "").lower().split(",")
    return [name.strip() for name in names if name.strip()] or ["otlp"]


def _endpoint(environ: Mapping[str, str], signal: str) -> str:
    own = environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "").strip()
    return own or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()


def _protocol(environ: Mapping[str, str], signal: str) -> Transport | None:
    name = environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "").strip()
    name = name or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip() or Transport.HTTP.value
    if name in (Transport.HTTP.value, Transport.GRPC.value):
        return Transport(name)
    _log.warning("[telemetry] OTEL_EXPORTER_OTLP_PROTOCOL=%s is not known here: no %s", name, signal.lower())
    return None
