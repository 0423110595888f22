"""Writes a verdict down where operators look: access record, span, metrics. Changes nothing and decides nothing.

Rules: exactly one outcome a request; a denial and an unknown always carry their reason; values come from the
configuration and from the table of codes, never from the request.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.authorize.judge import Refusal
from gateway.errors import GatewayError
from gateway.model.permit import Fallback, Permit
from gateway.model.record import AccessRecord
from gateway.telemetry.observer import Observer, Span


def write_down(
    verdict: Permit | Fallback | Refusal | None,
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
    if span.sampled:
        span.set("gateway.authz.outcome", verdict.outcome)
        span.set("gateway.authz.source", verdict.source)
        if code:
            span.set("gateway.authz.code", code)
    if verdict.degraded:
        record.degraded = verdict.degraded
        observer.degraded(route, verdict.degraded)
        span.event("degraded", mode=verdict.degraded, code=code)
    span.end(error=code if verdict.outcome == "unknown" else "")


def write_down_items(
    verdicts: Sequence[Permit | Fallback | Refusal | GatewayError],
    route: str,
    duration_s: float,
    record: AccessRecord,
    observer: Observer,
) -> None:
    """Account for every item of a bulk request; its access record tells of the first refusal, else of a permit."""
    record.authz_s += duration_s
    decided = [verdict for verdict in verdicts if not isinstance(verdict, GatewayError)]
    for verdict in decided:
        observer.decided(route, verdict.outcome, verdict.code, verdict.source, duration_s)
    told = next((verdict for verdict in decided if isinstance(verdict, Refusal)), decided[0] if decided else None)
    if told is None:
        return
    record.authz_outcome, record.authz_source, record.authz_code = told.outcome, told.source, told.code
    if isinstance(told, Refusal):
        record.authz_reason = told.error.reason or told.code
    modes = {verdict.degraded for verdict in decided if verdict.degraded}
    for mode in sorted(modes):
        record.degraded = mode
        observer.degraded(route, mode)
