"""Writes a verdict down where operators look: access record, span, metrics. Changes nothing and decides nothing.

Rules: exactly one outcome a request; a denial and an unknown always carry their reason; values come from the
configuration and from the table of codes, never from the request.
"""

from __future__ import annotations

from gateway.authorize.judge import Refusal
from gateway.model.permit import Permit
from gateway.model.record import AccessRecord
from gateway.telemetry.observer import Observer, Span


def write_down(
    verdict: Permit | Refusal | None,
    route: str,
    duration_s: float,
    record: AccessRecord,
    span: Span,
    observer: Observer,
) -> None:
    """Account for one verdict; None: the caller left, or a bug ended the asking, so there is no outcome."""
    record.authz_s = duration_s
    if verdict is None:
        span.end()
        return
    code, reason = verdict.code, ""
    if isinstance(verdict, Refusal):
        reason = verdict.error.reason or code
    record.authz_outcome = verdict.outcome
    record.authz_source = verdict.source
    record.authz_code = code
    record.authz_reason = reason
    observer.decided(route, verdict.outcome, code, verdict.source, duration_s)
    span.set("gateway.authz.outcome", verdict.outcome)
    span.set("gateway.authz.source", verdict.source)
    if code:
        span.set("gateway.authz.code", code)
    if verdict.degraded:
        record.degraded = verdict.degraded
        observer.degraded(route, verdict.degraded)
        span.event("degraded", mode=verdict.degraded, code=code)
    span.end(error=code if verdict.outcome == "unknown" else "")
