"""What stands in for an answer when IAM itself cannot give one (docs/authorization.md).

Rules: only a question that IAM's own failure left open gets a stand-in; a denial, our own overload, a rejected question
or one that fails alone never does. `stale` needs a known permit for exactly this question, younger than the rule says;
`local` asks the embedded policies, whose no is a no; `allow` permits. What gets no stand-in stays open, and what stays
open is refused. `fallback` is an answer instead of a decision, so it is not here but where permits are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gateway.authorize.cache import DecisionCache
from gateway.authorize.combine import degrades
from gateway.iam.decision_point import DecisionPoint
from gateway.model.question import Decision, Outcome, Question
from gateway.model.route import IamFailureMode, IamFailureRule
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import Observer, Span

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
            if answer.outcome is not Outcome.UNKNOWN:
                filled[index] = replace(answer, source="local")
        return filled
