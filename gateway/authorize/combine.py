"""Many decisions, one. The order of precedence is the whole of what "all must be permitted" means.

unauthenticated   the credentials are void: whatever else was said, 401
deny              a policy said no, also while other questions stayed open
unknown           first what never degrades (our own overload, a rejected or a lone failing question), then the rest
allow             only if every single decision is a permit; of nothing at all it is made by the caller's own rule
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from gateway.errors import GatewayError
from gateway.model.question import ALLOW, Decision, Outcome

_WEIGHT: Final = {"cache": 0, "coalesced": 1, "iam": 2, "stale": 3, "local": 4, "fail_open": 5}


def combine(decisions: Sequence[Decision]) -> Decision:
    """One decision for all. A combined permit has the source that says most about it and the age of the oldest."""
    if not decisions:
        return ALLOW
    if len(decisions) == 1:
        return decisions[0]
    return max(decisions, key=_precedence)


def degrades(decision: Decision) -> bool:
    """Whether a degrade rule may answer instead: only IAM's own failure, never what a client or our own load causes."""
    fault = decision.fault
    return decision.outcome is Outcome.UNKNOWN and fault is not None and fault.kind.degrades and not decision.isolated


def fault_of(decision: Decision) -> GatewayError:
    """A fresh error that says why the answer is not known (the decision's own may be shared by many requests)."""
    fault = decision.fault
    if fault is None:
        return GatewayError("internal_error", reason="an unknown decision without a fault")
    return GatewayError(
        fault.code,
        fault.detail or "Access could not be checked, so nothing was forwarded.",
        retry_after_s=fault.retry_after_s,
        proxy_error=fault.proxy_error,
        reason=fault.reason,
    )


def first(decisions: Iterable[Decision], outcome: Outcome) -> int:
    """The position of the first decision with this outcome, -1 if there is none."""
    return next((index for index, decision in enumerate(decisions) if decision.outcome is outcome), -1)


def _precedence(decision: Decision) -> tuple[int, float, float]:
    if decision.unauthenticated:
        return (4, 0, 0)
    match decision.outcome:
        case Outcome.DENY:
            return (3, not decision.step_up, 0)  # stronger authentication does not help where another check says no
        case Outcome.UNKNOWN:
            return (2, not degrades(decision), 0)
        case Outcome.ALLOW:
            return (1, _WEIGHT.get(decision.source, 0), decision.age_s)
