"""Tells a witness what was decided. Called only where there is a witness."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.authorize.judge import Case, Refusal
from gateway.model.permit import Fallback, Permit
from gateway.model.question import Decision, Outcome
from gateway.witness import Decided, Witness

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
