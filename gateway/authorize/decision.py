"""From the decisions of one case to its Permit, its Fallback or its refusal: docs/authorization.md, as code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.authorize.cache import DecisionCache
from gateway.authorize.plan import Plan
from gateway.errors import GatewayError
from gateway.iam.client import DecisionPoint
from gateway.model.permit import (
    ALLOW,
    Decision,
    Fallback,
    Outcome,
    Permit,
    Question,
    step_up_required,
    void_credentials,
)
from gateway.model.request import Request, Subject
from gateway.model.route import IamFailureMode, IamFailureRule
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import Observer, Span

# IAM's texts for a denied caller, in the language that the caller prefers (`iam.deny_reasons`).
#
# Rules: `Accept-Language` (RFC 9110 section 12.5.4) is read in its order, weights aside; a language fits one that it
# is the beginning of (`en` and `en-403`, `de` and `de-CH`); else English, else what is there first.

_MOST: Final = 10


def said_to(request: Request, decision: Decision) -> str:
    """The reason of a denial for the caller of `request`; empty if IAM gave none."""
    reasons = decision.reason_user
    for wanted in (*_languages(request), "en", ""):
        for language, text in reasons:
            if language == wanted or language.startswith(wanted + "-"):
                return text
    return reasons[0][1] if reasons else ""


def _languages(request: Request) -> list[str]:
    fields = b",".join(request.values(b"accept-language")).decode("latin-1").lower()
    tags = [part.partition(";")[0].strip() for part in fields.split(",", _MOST)[:_MOST]]
    return [shorter for tag in tags if tag and tag != "*" for shorter in (tag, tag.partition("-")[0])]


# Many decisions become one. This order of precedence defines what "all must be permitted" means.
#
# unauthenticated   the credentials are invalid: 401, whatever the other decisions are
# deny              a policy denied, also if other questions have no answer
# unknown           first what never degrades (our overload, a rejected question, one that fails alone), then the rest
# allow             only if every single decision is a permit; of nothing at all it is made by the caller's own rule

_WEIGHT: Final = {"cache": 0, "coalesced": 1, "iam": 2, "stale": 3, "local": 4, "fail_open": 5}


def combine(decisions: Sequence[Decision]) -> Decision:
    """One decision for all. A combined permit has the most telling source and the age of the oldest."""
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
            return (3, not decision.step_up, 0)  # stronger authentication does not help if another check is denied
        case Outcome.UNKNOWN:
            return (2, not degrades(decision), 0)
        case Outcome.ALLOW:
            return (1, _WEIGHT.get(decision.source, 0), decision.age_s)


# What replaces an answer when IAM itself cannot give one (docs/authorization.md).

_OPEN_DOOR: Final = Decision(Outcome.ALLOW, "fail_open")


class StandIns:
    """Stand-ins for answers that IAM could not give. `local` is None where no route degrades to it."""

    __slots__ = ("_cache", "_local", "_observer")

    def __init__(self, cache: DecisionCache, local: DecisionPoint | None, observer: Observer) -> None:
        self._cache = cache
        self._local = local
        self._observer = observer

    async def fill(
        self,
        rule: IamFailureRule,
        questions: Sequence[Question],
        decisions: Sequence[Decision],
        *,
        deadline: Deadline,
        request_id: str,
        span: Span,
    ) -> list[Decision]:
        """The decisions, with a stand-in for each that may have one."""
        # Only questions that IAM's own failure left open get a stand-in. The others stay open, and are refused.
        match rule.mode:
            case IamFailureMode.STALE:
                return [
                    self._stale(question, decision, rule.max_stale_s) if degrades(decision) else decision
                    for question, decision in zip(questions, decisions, strict=True)
                ]
            case IamFailureMode.LOCAL if self._local is not None:
                return await self._decided_here(self._local, questions, decisions, deadline, request_id, span)
            case IamFailureMode.ALLOW:
                return [_OPEN_DOOR if degrades(decision) else decision for decision in decisions]
        return list(decisions)

    def _stale(self, question: Question, unanswered: Decision, max_stale_s: float) -> Decision:
        age_s = self._cache.permit_age_s(question)
        # A permit for exactly this question, younger than the rule says.
        if age_s is None or age_s >= max_stale_s:
            return unanswered
        self._observer.cache("stale")
        return Decision(Outcome.ALLOW, "stale", age_s=age_s)

    async def _decided_here(
        self,
        local: DecisionPoint,
        questions: Sequence[Question],
        decisions: Sequence[Decision],
        deadline: Deadline,
        request_id: str,
        span: Span,
    ) -> list[Decision]:
        unanswered = [index for index, decision in enumerate(decisions) if degrades(decision)]
        asked = [questions[index] for index in unanswered]
        answers = await local.decide(asked, deadline=deadline, request_id=request_id, span=span)
        filled = list(decisions)
        for index, answer in zip(unanswered, answers, strict=True):
            # A denial of the embedded policies counts.
            if answer.outcome is not Outcome.UNKNOWN:
                filled[index] = replace(answer, source="local")
        return filled


# From the decisions of one case to its Permit or its refusal: the table of docs/authorization.md, as code.
#
#     invalid credentials                          401
#     the route's own checks denied                403
#     … open, by what never degrades               the error (our overload, a rejected question, one that fails alone)
#     anything open by IAM's own failure           the route's rule: 503 · stale · local · fallback · allow
#     all parts, or a required one, denied         403
#     otherwise                                    Permit; a part that is denied or still open is not asked

_STAND_INS: Final = {"stale": ("stale", "stale"), "local": ("local", "local"), "fail_open": ("fail_open", "allow")}
"""The name of a stand-in's source as an outcome, and as a mode in `X-Gateway-Degraded`."""
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
    """Makes Permits. Asks only the stand-ins."""

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
        # After the deadline nothing degrades: there is no time left to forward.
        if deadline.remaining_s() <= 0:
            return Refusal(GatewayError("iam_timeout", fault.detail, reason=fault.reason), "unknown")
        # If the embedded policies or nobody decides, the subject must have been authenticated here.
        if rule.mode is IamFailureMode.FAIL_CLOSED or (rule.mode in _NEEDS_IDENTITY and not case.subject.identified):
            return Refusal(fault, "unknown")
        # This is an answer, not a decision, so it is made here and not by the stand-ins.
        if rule.mode is IamFailureMode.FALLBACK and rule.response is not None:
            return Fallback(rule.response, fault.code)
        request_id = case.request.request_id
        decisions[:] = await self._stand_ins.fill(
            rule, case.questions, decisions, deadline=deadline, request_id=request_id, span=span
        )
        return _granted(case, decisions, fault.code)


def _granted(case: Case, decisions: Sequence[Decision], code: str) -> Permit | Refusal:
    """The permit, unless denied and open questions leave nothing to permit."""
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
