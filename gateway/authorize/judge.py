"""From the decisions of one case to its Permit or its refusal: the table of docs/authorization.md, as code.

    void credentials                             401
    the route's own checks denied                403
    … open, by what never degrades               the fault (our overload, a rejected or a lone failing question)
    anything open by IAM's own failure           the route's rule: 503 · stale · local · fallback · allow
    all parts, or a required one, denied         403
    otherwise                                    Permit; a part that is denied or still open is not asked

Rules: a rule that lets the embedded policies or nobody decide needs a subject that was authenticated here. When the
deadline is over nothing degrades: there is no time left in which to forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.authorize.combine import combine, degrades, fault_of, first
from gateway.authorize.degrade import StandIns
from gateway.authorize.plan import Plan
from gateway.authorize.words import said_to
from gateway.errors import GatewayError
from gateway.model.permit import Fallback, Permit
from gateway.model.question import Decision, Outcome, Question, step_up_required, void_credentials
from gateway.model.request import Request
from gateway.model.route import IamFailureMode
from gateway.model.subject import Subject
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import Span

_STAND_INS: Final = {"stale": ("stale", "stale"), "local": ("local", "local"), "fail_open": ("fail_open", "allow")}
"""What a stand-in's source is called as an outcome, and as a mode in `X-Gateway-Degraded`."""
_BY_IAM: Final = ("allow", None)
_NEEDS_IDENTITY: Final = frozenset({IamFailureMode.LOCAL, IamFailureMode.ALLOW})
_DETAIL: Final = "A policy does not allow this."


class Case:
    """One request's questions: `questions[i]` is asked by `plan.checks[i]`. Not a tuple, which costs more to make."""

    __slots__ = ("plan", "questions", "request", "subject")

    def __init__(self, request: Request, plan: Plan, subject: Subject, questions: Sequence[Question]) -> None:
        self.request: Final = request
        self.plan: Final = plan
        self.subject: Final = subject
        self.questions: Final = questions


@dataclass(frozen=True, slots=True)
class Refusal:
    """No permit: `error` for the caller; outcome, source and mode for log and metrics."""

    error: GatewayError
    outcome: str
    source: str = "iam"
    degraded: str | None = None

    @property
    def code(self) -> str:
        """The code of the error."""
        return self.error.code


class Judge:
    """Makes Permits. Asks nobody but the stand-ins."""

    __slots__ = ("_stand_ins",)

    def __init__(self, stand_ins: StandIns) -> None:
        self._stand_ins = stand_ins

    def permit(self, case: Case, decisions: Sequence[Decision]) -> Permit | None:
        """The permit where everything was permitted and there are no parts to tell apart: nearly always."""
        if case.plan.parts:
            return None
        whole = combine(decisions)
        return _permit(case, whole, "", ()) if whole.outcome is Outcome.ALLOW else None

    async def judge(
        self, case: Case, decisions: list[Decision], *, deadline: Deadline, span: Span
    ) -> Permit | Fallback | Refusal:
        """The verdict on one case, given one decision for each of its questions; what stood in takes their place."""
        permit = self.permit(case, decisions)
        if permit is not None:
            return permit
        whole = combine(decisions)
        own = combine(decisions[: case.plan.own]) if case.plan.parts else whole
        if whole.unauthenticated or own.outcome is Outcome.DENY:
            return refused(case, decisions, whole if whole.unauthenticated else own)
        if own.outcome is Outcome.UNKNOWN and not degrades(own):
            return refused(case, decisions, own)
        failing = next(filter(degrades, decisions), None)
        if failing is None:
            return _granted(case, decisions, "")
        return await self._without_iam(case, decisions, failing, deadline=deadline, span=span)

    async def _without_iam(
        self,
        case: Case,
        decisions: list[Decision],
        failing: Decision,
        *,
        deadline: Deadline,
        span: Span,
    ) -> Permit | Fallback | Refusal:
        rule = case.plan.rule
        fault = fault_of(failing)
        if deadline.remaining_s() <= 0:
            return Refusal(GatewayError("iam_timeout", fault.detail, reason=fault.reason), "unknown")
        if rule.mode is IamFailureMode.FAIL_CLOSED or (rule.mode in _NEEDS_IDENTITY and not case.subject.identified):
            return Refusal(fault, "unknown")
        if rule.mode is IamFailureMode.FALLBACK and rule.response is not None:
            return Fallback(rule.response, fault.code)
        request_id = case.request.request_id
        decisions[:] = await self._stand_ins.fill(
            rule, case.questions, decisions, deadline=deadline, request_id=request_id, span=span
        )
        return _granted(case, decisions, fault.code)


def _granted(case: Case, decisions: Sequence[Decision], code: str) -> Permit | Refusal:
    """The permit, unless what is denied or still open leaves nothing to permit."""
    plan = case.plan
    own = combine(decisions[: plan.own])
    if own.outcome is not Outcome.ALLOW:
        return refused(case, decisions, own)
    parts = tuple((part.name, combine(decisions[part.start : part.end])) for part in plan.parts)
    denied = _denied_beyond_use(plan, parts)
    if denied is not None:
        return refused(case, decisions, denied)
    whole = combine([own, *(part for _, part in parts if part.outcome is Outcome.ALLOW)])
    return _permit(case, whole, code, parts)


def _permit(case: Case, whole: Decision, code: str, parts: tuple[tuple[str, Decision], ...]) -> Permit:
    """The permit that `whole` is: nobody calls this with anything but a permit."""
    source = whole.source
    outcome, mode = _STAND_INS.get(source, _BY_IAM)
    if mode is None:
        code = ""
    elif source == "fail_open":
        source = "iam"
    return Permit(
        case.request,
        case.plan.route,
        case.subject,
        outcome,
        source,
        mode,
        whole.age_s,
        code,
        parts,
    )


def _denied_beyond_use(plan: Plan, parts: Sequence[tuple[str, Decision]]) -> Decision | None:
    """A part's denial, if it is a required part's or too few parts are left that could answer."""
    denied = [
        (part, decision)
        for part, (_, decision) in zip(plan.parts, parts, strict=True)
        if decision.outcome is Outcome.DENY
    ]
    if not denied:
        return None
    beyond_use = len(parts) - len(denied) < max(1, plan.at_least) or any(part.required for part, _ in denied)
    return denied[0][1] if beyond_use else None


def refused(case: Case, decisions: Sequence[Decision], decision: Decision) -> Refusal:
    """The refusal that a combined decision other than a permit means."""
    if decision.unauthenticated:
        return Refusal(void_credentials(), "deny", decision.source)
    if decision.outcome is Outcome.UNKNOWN:
        return Refusal(fault_of(decision), "unknown")
    if decision.step_up:
        return Refusal(step_up_required(decision.step_up), "deny", decision.source)
    reason = f"denied: {case.plan.checks[first(decisions, Outcome.DENY)].source}"
    if decision.source != "local":
        detail = said_to(case.request, decision) or _DETAIL
        return Refusal(GatewayError("iam_denied", detail, reason=reason), "deny", decision.source)
    headers = ((b"x-gateway-degraded", b"iam; mode=local"),)
    return Refusal(GatewayError("iam_denied", _DETAIL, reason=reason, headers=headers), "deny", "local", "local")
