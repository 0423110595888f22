"""What happened to one request, filled in by the stages, read once at its end for log, metrics and span."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class AccessRecord:
    """One line of the access log (docs/telemetry.md). Times are `time.monotonic()` seconds; durations in seconds.

    `route` and `path_template` come from the configuration ("" before a route was chosen), `path` is the raw path
    without query. `authz_outcome`: allow | deny | stale | local | fallback | fail_open | unknown, "" if never asked.
    `client_left`: the caller went away before the answer was complete.
    """

    started_s: float
    request_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    method: str = ""
    path: str = ""
    route: str = ""
    path_template: str = ""
    status: int = 0
    code: str = ""
    client: str = ""
    subject: str = ""
    authz_outcome: str = ""
    authz_source: str = ""
    authz_code: str = ""
    authz_reason: str = ""
    authz_s: float = 0.0
    upstream: str = ""
    upstream_s: float = 0.0
    retries: int = 0
    degraded: str = ""
    client_left: bool = False
    scheme: str = "http"
    reason: str = ""
