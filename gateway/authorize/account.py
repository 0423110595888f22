"""Records a verdict in the access record, span and metrics, and tells the witness. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.authorize.decision import Case, Refusal
from gateway.errors import GatewayError
from gateway.model.permit import Decision, Fallback, Outcome, Permit
from gateway.model.request import AccessRecord
from gateway.telemetry.observer import Observer, Span
from gateway.witness import Decided, Witness

# Rules: exactly one outcome a request; a denial and an unknown always carry their reason; values come from the
# configuration and from the table of codes, never from the request.


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
    """Account for every item of a bulk request; its access record has the first refusal, otherwise a permit."""
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


# Tells a witness what was decided. Called only where there is a witness.

_VOID = "unauthenticated"


def tell(
    witness: Witness,
    case: Case,
    decisions: Sequence[Decision],
    verdict: Permit | Fallback | Refusal,
    trace_id: str,
) -> None:
    """Of one verdict. A token that IAM does not know was refused, which is no decision about anybody."""
    if verdict.code == _VOID:
        return
    witness.saw(
        Decided(
            case.request,
            case.plan.route,
            case.subject,
            case.questions,
            decisions,
            case.plan.checks,
            verdict.outcome,
            verdict.source,
            verdict.code,
            verdict.age_s if isinstance(verdict, Permit) else 0.0,
            (verdict.error.reason or verdict.code) if isinstance(verdict, Refusal) else "",
            trace_id,
        )
    )


def tell_unasked(witness: Witness, permit: Permit, trace_id: str) -> None:
    """Of a permit for which nobody had to be asked. A public route is no decision."""
    if permit.subject is not None:
        witness.saw(
            Decided(
                permit.request,
                permit.route,
                permit.subject,
                (),
                (),
                (),
                permit.outcome,
                permit.source,
                trace_id=trace_id,
            )
        )


def tell_recheck(witness: Witness, case: Case, decisions: Sequence[Decision], combined: Decision) -> None:
    """Of a stream that was asked about again."""
    if combined.unauthenticated:
        return
    fault = combined.fault
    outcome = "stale" if combined.source == "stale" else combined.outcome.value
    witness.saw(
        Decided(
            case.request,
            case.plan.route,
            case.subject,
            case.questions,
            decisions,
            case.plan.checks,
            outcome,
            combined.source,
            "iam_denied" if combined.outcome is Outcome.DENY else fault.code if fault else "",
            combined.age_s,
            "asked again for an open stream",
        )
    )
