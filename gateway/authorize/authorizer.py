"""Step 3 of a request's life: may this subject do this?

`plan` has the route's questions, `cache` the known answers. IAM answers the rest in one call. `decision` judges.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gateway.authorize.account import tell, tell_recheck, tell_unasked, write_down, write_down_items
from gateway.authorize.cache import SUBJECT_SHARE, DecisionCache
from gateway.authorize.decision import Case, Judge, Refusal, StandIns, combine, refused
from gateway.authorize.plan import ITEM_METHOD, Plan, Plans, plans_by_route
from gateway.errors import GatewayError
from gateway.iam.client import DecisionPoint
from gateway.model.permit import Decision, Fallback, Outcome, Permit, Question, void_credentials
from gateway.model.request import AccessRecord, Request, Subject
from gateway.model.route import AccessKind, IamFailureMode, Route
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import NO_SPAN, Observer, Span
from gateway.witness import Witness


class Authorizer:
    """Decides for the routes of one configuration. `cache` may outlive it. `plans`: where they were made before.

    `witness` is told of every decision.
    `at_a_time`: how many questions of one request wait for IAM at once; a multiple of the batch size, and no more than
    one subject may have waiting, or a long list would be its own overload.
    """

    def __init__(
        self,
        iam: DecisionPoint,
        routes: Sequence[Route],
        *,
        local: DecisionPoint | None,
        cache: DecisionCache,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
        at_a_time: int = 500,
        plans: Plans | None = None,
        witness: Witness | None = None,
    ) -> None:
        self.cache = cache
        self._iam = iam
        self._observer = observer
        self._clock = clock
        self._judge = Judge(StandIns(cache, local, observer))
        # The questions of a route are prepared at load, so that a request only fills in values.
        self._plans, self._item_plans = plans or plans_by_route(routes)
        self._at_a_time = at_a_time
        self._witness = witness
        if local is None and any(_degrades_to_local(plan) for plans in self._plans.values() for plan in plans.values()):
            raise ValueError("a route degrades to the embedded policies, but there are none")

    async def authorize(
        self,
        request: Request,
        route: Route,
        subject: Subject | None,
        deadline: Deadline,
        record: AccessRecord,
        span: Span,
    ) -> Permit | Fallback:
        """The permit, or the route's own response.

        Raises `iam_denied`, `unauthenticated`, `bad_request` (placeholders) or why IAM is unknown.
        """
        plan = self._plans[route.id][request.method]
        if not plan.checks:
            permit = _unasked(plan, request, subject)
            if self._witness is not None:
                tell_unasked(self._witness, permit, record.trace_id)
            return permit
        if subject is None:
            raise GatewayError("internal_error", reason=f"route {route.id} was to be authorized without a subject")
        # The permit contains exactly this request, so the request that was decided is forwarded.
        case = Case(request, plan, subject, plan.questions(request, subject))
        began_s = self._clock()
        own = self._observer.authorize_started(span)
        decisions: list[Decision] = []
        try:
            decisions = await self.decide(
                case.questions,
                deadline=deadline,
                request_id=request.request_id,
                span=own,
                client=request.client,
            )
            verdict: Permit | Fallback | Refusal | None = self._judge.permit(case, decisions)
            if verdict is None:
                verdict = await self._judge.judge(case, decisions, deadline=deadline, span=own)
        except BaseException:
            ended = _ended(deadline)
            write_down(ended, route.id, self._clock() - began_s, record, own, self._observer)
            if self._witness is not None and ended is not None:
                tell(self._witness, case, decisions, ended, record.trace_id)
            raise
        write_down(verdict, route.id, self._clock() - began_s, record, own, self._observer)
        if self._witness is not None:
            tell(self._witness, case, decisions, verdict, record.trace_id)
        if isinstance(verdict, Refusal):
            raise verdict.error
        return verdict

    def decide(
        self, questions: Sequence[Question], *, deadline: Deadline, request_id: str, span: Span, client: str = ""
    ) -> Coroutine[Any, Any, list[Decision]]:
        """One decision a question, in order: from the cache where it may serve, from IAM for all the rest at once.

        `client`: the address whose share of the cache the answers are kept in.
        """
        # Navigation and permissions ask here too, so that all of them decide the same.
        decide = self._decide if self.cache.serves else self._ask
        return decide(questions, deadline, request_id, span, client)

    async def decide_items(
        self,
        permit: Permit,
        items: Sequence[Mapping[str, str]],
        *,
        deadline: Deadline,
        record: AccessRecord,
        span: Span,
    ) -> list[Permit | Fallback | GatewayError]:
        """A permit, a fallback or a refusal for each item of a bulk request, given its path parameters.

        `permit` is the bulk request's own: what does not depend on the item was decided with it.
        """
        plan = self._item_plans[permit.route.id]
        if plan is None:
            raise GatewayError("internal_error", reason=f"route {permit.route.id} has no items to decide")
        requests = [
            replace(permit.request, method=ITEM_METHOD, params={**permit.request.params, **item}) for item in items
        ]
        if not plan.checks:
            return [replace(permit, request=request, route=plan.route, parts=plan.free_parts) for request in requests]
        if permit.subject is None:
            raise GatewayError("internal_error", reason=f"items of {permit.route.id} were to be decided for nobody")
        began_s = self._clock()
        cases = [_item_case(plan, request, permit.subject) for request in requests]
        decisions = await self._decide_cases(cases, permit.request, deadline, span)
        verdicts = [await self._item_verdict(case, decisions, deadline, span, record.trace_id) for case in cases]
        if any(isinstance(verdict, Refusal) and verdict.code == "unauthenticated" for verdict in verdicts):
            raise void_credentials()
        write_down_items(verdicts, plan.route.id, self._clock() - began_s, record, self._observer)
        return [verdict.error if isinstance(verdict, Refusal) else verdict for verdict in verdicts]

    async def recheck(self, permit: Permit, deadline: Deadline, span: Span = NO_SPAN) -> None:
        """Ask again for an open stream. Raises a denial, or why IAM is unknown where no young enough permit is known.

        Young enough is what the route's stale rule says, elsewhere `iam.cache.max_stale`.
        """
        plan, subject = self._plans[permit.route.id][permit.request.method], permit.subject
        if not plan.checks or subject is None:
            return
        case = Case(permit.request, plan, subject, plan.questions(permit.request, subject))
        decisions = await self.decide(
            case.questions,
            deadline=deadline,
            request_id=permit.request.request_id,
            span=span,
            client=permit.request.client,
        )
        stale = plan.rule.mode is IamFailureMode.STALE
        max_stale_s = plan.rule.max_stale_s if stale else self.cache.max_stale_s
        known = [
            self._known_permit(question, decision, max_stale_s)
            for question, decision in zip(case.questions, decisions, strict=True)
        ]
        combined = combine(known)
        if self._witness is not None:
            tell_recheck(self._witness, case, known, combined)
        if combined.outcome is not Outcome.ALLOW:
            raise refused(case, decisions, combined).error

    async def _decide(
        self, questions: Sequence[Question], deadline: Deadline, request_id: str, span: Span, client: str
    ) -> list[Decision]:
        known = [self._served(question) for question in questions]
        missing = [question for question, decision in zip(questions, known, strict=True) if decision is None]
        asked = iter(await self._ask(missing, deadline, request_id, span, client) if missing else ())
        return [next(asked) if decision is None else decision for decision in known]

    def _served(self, question: Question) -> Decision | None:
        decision = self.cache.get(question)
        self._observer.cache("miss" if decision is None else "hit")
        return decision

    async def _ask(
        self, questions: Sequence[Question], deadline: Deadline, request_id: str, span: Span, client: str
    ) -> list[Decision]:
        """Ask IAM, and remember what it said."""
        if len(questions) > self._at_a_time:
            return await self._ask_in_turns(questions, deadline, request_id, span, client)
        stamp = self.cache.stamp()
        decisions = await self._iam.decide(questions, deadline=deadline, request_id=request_id, span=span)
        if len(decisions) != len(questions):
            raise GatewayError("internal_error", reason="not as many decisions as questions")
        self.cache.remember(questions, decisions, stamp, client)
        return decisions

    async def _ask_in_turns(
        self, questions: Sequence[Question], deadline: Deadline, request_id: str, span: Span, client: str
    ) -> list[Decision]:
        decisions: list[Decision] = []
        for start in range(0, len(questions), self._at_a_time):
            turn = questions[start : start + self._at_a_time]
            decisions += await self._ask(turn, deadline, request_id, span, client)
        return decisions

    async def _decide_cases(
        self, cases: Sequence[Case | GatewayError], request: Request, deadline: Deadline, span: Span
    ) -> dict[tuple[str, str], Decision]:
        """The decisions on the questions of all cases, each distinct one asked once."""
        usable = [case for case in cases if isinstance(case, Case)]
        distinct = {question.key: question for case in usable for question in case.questions}
        if not distinct:
            return {}
        questions = list(distinct.values())
        decisions = await self.decide(
            questions, deadline=deadline, request_id=request.request_id, span=span, client=request.client
        )
        return dict(zip(distinct, decisions, strict=True))

    async def _item_verdict(
        self,
        case: Case | GatewayError,
        decisions: Mapping[tuple[str, str], Decision],
        deadline: Deadline,
        span: Span,
        trace_id: str,
    ) -> Permit | Fallback | Refusal | GatewayError:
        if isinstance(case, GatewayError):
            return case
        found = [decisions[question.key] for question in case.questions]
        verdict = await self._judge.judge(case, found, deadline=deadline, span=span)
        if self._witness is not None:
            tell(self._witness, case, found, verdict, trace_id)
        return verdict

    def _known_permit(self, question: Question, decision: Decision, max_stale_s: float) -> Decision:
        if decision.outcome is not Outcome.UNKNOWN:
            return decision
        age_s = self.cache.permit_age_s(question)
        return decision if age_s is None or age_s >= max_stale_s else Decision(Outcome.ALLOW, "stale", age_s=age_s)


def _ended(deadline: Deadline) -> Refusal | None:
    """What is recorded of a request that ended before its verdict; nothing if the caller left."""
    if deadline.remaining_s() > 0:
        return None
    return Refusal(GatewayError("iam_timeout", reason="the deadline ended before the permit"), "unknown")


def _unasked(plan: Plan, request: Request, subject: Subject | None) -> Permit:
    """The permit where nothing is to be asked: of a public route, or of one that needs no more than a subject."""
    if plan.kind is AccessKind.PUBLIC:
        return Permit(request, plan.route, subject, "allow", "public", parts=plan.free_parts)
    if subject is None:
        raise GatewayError("internal_error", reason=f"route {plan.route.id} was to be authorized without a subject")
    return Permit(request, plan.route, subject, "allow", "authenticated", parts=plan.free_parts)


def questions_at_a_time(max_queue: int, max_size: int) -> int:
    """How many questions of one request may wait for IAM together: whole batches within one subject's share."""
    return max(1, max_queue // SUBJECT_SHARE // max_size) * max_size


def _degrades_to_local(plan: Plan) -> bool:
    return plan.rule.mode is IamFailureMode.LOCAL


def _item_case(plan: Plan, request: Request, subject: Subject) -> Case | GatewayError:
    """The item's questions, or why its values cannot stand in them: one unusable item does not affect the others."""
    try:
        return Case(request, plan, subject, plan.questions(request, subject))
    except GatewayError as unusable:
        return unusable
