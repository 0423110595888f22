"""Every metric by name: the one table that code, `/metrics`, OTLP and the documentation are made from.

Rules: names and units are OpenTelemetry's (semantic conventions for HTTP; `gateway.*` for what is ours); label values
come from the configuration and from closed lists (methods, status codes, codes of errors), never from what a client
sent.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class InstrumentKind(enum.StrEnum):
    """How values of an instrument are put together."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric. `unit` as in UCUM (`{request}` is a count of requests). `bounds`: upper bounds of the buckets.

    `least`: of several workers the least value counts, not the sum. `text_name`: the name in Prometheus text where
    that has a convention of its own, without the `_total` of counters.
    """

    name: str
    kind: InstrumentKind
    unit: str
    description: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    least: bool = False
    text_name: str = ""


_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""What the semantic conventions advise for HTTP durations."""
_SHORT: Final = (0.00025, 0.0005, 0.001, 0.0025, *_SECONDS)
"""For what is often decided from memory."""
_SIZES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)

_COUNTER, _GAUGE, _HISTOGRAM = InstrumentKind.COUNTER, InstrumentKind.GAUGE, InstrumentKind.HISTOGRAM

REQUEST_DURATION: Final = Instrument(
    "http.server.request.duration",
    _HISTOGRAM,
    "s",
    "Duration of requests, from the accepted head to the end of the answer.",
    ("http.request.method", "url.scheme", "http.route", "http.response.status_code", "error.type"),
    _SECONDS,
)
CALL_DURATION: Final = Instrument(
    "http.client.request.duration",
    _HISTOGRAM,
    "s",
    "Duration of single attempts at an upstream, and of calls to IAM (upstream `iam`).",
    (
        "http.request.method",
        "upstream",
        "http.response.status_code",
        "error.type",
        "server.address",
        "server.port",
    ),
    _SECONDS,
)
DECISIONS: Final = Instrument(
    "gateway.authz.decisions",
    _COUNTER,
    "{decision}",
    "Requests by what was decided about them; `deny` and `unknown` are never the same.",
    ("route", "outcome", "code"),
)
DECISION_DURATION: Final = Instrument(
    "gateway.authz.duration",
    _HISTOGRAM,
    "s",
    "Time in which a request waited for its decision.",
    ("route", "outcome"),
    _SHORT,
)
BATCH_SIZE: Final = Instrument(
    "gateway.iam.batch.size",
    _HISTOGRAM,
    "{evaluation}",
    "Questions in one call to IAM.",
    (),
    _SIZES,
)
IAM_QUEUE: Final = Instrument(
    "gateway.iam.queue",
    _GAUGE,
    "{evaluation}",
    "Questions that wait for a call to IAM.",
)
IAM_HEDGES: Final = Instrument(
    "gateway.iam.hedges",
    _COUNTER,
    "{call}",
    "Calls that went to a second url of IAM because the first was slow, by whether the second answered first.",
    ("result",),
)
CACHE: Final = Instrument(
    "gateway.authz.cache",
    _COUNTER,
    "{lookup}",
    "Questions looked up in the decision cache.",
    ("result",),
)
CIRCUIT_STATE: Final = Instrument(
    "gateway.circuit.state",
    _GAUGE,
    "",
    "1 for the state that a circuit is in, 0 for the others; summed over workers.",
    ("name", "kind", "state"),
)
CIRCUIT_TRANSITIONS: Final = Instrument(
    "gateway.circuit.transitions",
    _COUNTER,
    "{transition}",
    "Changes of state of a circuit.",
    ("name", "from", "to"),
)
DEGRADED: Final = Instrument(
    "gateway.degraded",
    _COUNTER,
    "{response}",
    "Answers that were degraded.",
    ("route", "mode"),
)
RETRIES: Final = Instrument(
    "gateway.retries",
    _COUNTER,
    "{attempt}",
    "Further attempts, by what was asked again.",
    ("target",),
)
RELOADS: Final = Instrument(
    "gateway.config.reloads",
    _COUNTER,
    "{reload}",
    "Reloads of the configuration.",
    ("result",),
)
CONNECTIONS_REFUSED: Final = Instrument(
    "gateway.connections.refused",
    _COUNTER,
    "{connection}",
    "Connections that were closed as they came, by the limit that they would have broken.",
    ("reason",),
)
RELOADED: Final = Instrument(
    "gateway.config.last.reload.successful",
    _GAUGE,
    "",
    "1 while the file serves, 0 while it was refused and the configuration before it goes on; of several workers the "
    "least.",
    least=True,
)
CONFIG: Final = Instrument(
    "gateway.config.info",
    _GAUGE,
    "",
    "The configuration that serves, by its hash: the number of workers that serve it.",
    ("hash",),
)
BUILD: Final = Instrument(
    "gateway.build.info",
    _GAUGE,
    "",
    "1, with the version of the gateway and of Python.",
    ("version", "python"),
    least=True,
)
ACTIVE_REQUESTS: Final = Instrument(
    "gateway.requests.active",
    _GAUGE,
    "{request}",
    "Requests that are not over, streams among them.",
)
STREAMS: Final = Instrument(
    "gateway.streams.open",
    _GAUGE,
    "{stream}",
    "WebSockets and event streams that are open.",
)
CONNECTIONS: Final = Instrument(
    "gateway.connections.open",
    _GAUGE,
    "{connection}",
    "Connections of callers that are open, by listener.",
    ("listener",),
)
CLIENT_CONNECTIONS: Final = Instrument(
    "http.client.open_connections",
    _GAUGE,
    "{connection}",
    "Connections to upstreams: `active` ones carry a request, `idle` ones wait for the next.",
    ("upstream", "server.address", "server.port", "http.connection.state"),
)
CLIENT_CONNECTIONS_LIMIT: Final = Instrument(
    "gateway.upstream.connections.limit",
    _GAUGE,
    "{connection}",
    "How many connections there may be to an origin (`max_connections`), streams apart.",
    ("upstream", "server.address", "server.port"),
)
CLIENT_PENDING: Final = Instrument(
    "gateway.upstream.pending",
    _GAUGE,
    "{request}",
    "Requests that wait for a connection to an upstream.",
    ("upstream", "server.address", "server.port"),
)
CPU_TIME: Final = Instrument(
    "process.cpu.time",
    _COUNTER,
    "s",
    "Time in which the CPU worked for the process.",
    text_name="process_cpu_seconds",
)
MEMORY: Final = Instrument(
    "process.memory.usage",
    _GAUGE,
    "By",
    "Memory of the process that is in RAM.",
    text_name="process_resident_memory_bytes",
)
OPEN_FILES: Final = Instrument(
    "process.open_file_descriptor.count",
    _GAUGE,
    "{file_descriptor}",
    "Files and sockets that the process has open.",
    text_name="process_open_fds",
)
MOST_FILES: Final = Instrument(
    "process.open_file_descriptor.limit",
    _GAUGE,
    "{file_descriptor}",
    "How many files and sockets the process may have open; of several workers the least.",
    least=True,
    text_name="process_max_fds",
)
STARTED: Final = Instrument(
    "process.start.time",
    _GAUGE,
    "s",
    "When the process began, in Unix time; of several workers the first.",
    least=True,
    text_name="process_start_time_seconds",
)
SHADOW: Final = Instrument(
    "gateway.shadow",
    _COUNTER,
    "{decision}",
    "Decisions that a second IAM was asked about, by whether it decides the same.",
    ("route", "agreement"),
)
DROPPED: Final = Instrument(
    "gateway.telemetry.dropped",
    _COUNTER,
    "{item}",
    "Log lines, spans and metrics that were given up because nobody took them in time.",
    ("signal",),
)

INSTRUMENTS: Final = (
    REQUEST_DURATION,
    CALL_DURATION,
    DECISIONS,
    DECISION_DURATION,
    BATCH_SIZE,
    IAM_QUEUE,
    IAM_HEDGES,
    CACHE,
    CIRCUIT_STATE,
    CIRCUIT_TRANSITIONS,
    DEGRADED,
    RETRIES,
    RELOADS,
    CONNECTIONS_REFUSED,
    RELOADED,
    CONFIG,
    BUILD,
    ACTIVE_REQUESTS,
    STREAMS,
    CONNECTIONS,
    CLIENT_CONNECTIONS,
    CLIENT_CONNECTIONS_LIMIT,
    CLIENT_PENDING,
    CPU_TIME,
    MEMORY,
    OPEN_FILES,
    MOST_FILES,
    STARTED,
    SHADOW,
    DROPPED,
)
