"""One decision as it was made, for whoever keeps evidence of it. A witness changes nothing and decides nothing.

What is a decision: a request that was judged; each item of a bulk request; the items of a navigation and the questions
of a permissions request, together as one; a stream that is asked about again. Not a decision: a public route, and a
token that was refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from gateway.checks import PreparedCheck
from gateway.model.permit import Decision, Outcome, Permit, Question
from gateway.model.request import Request, Subject
from gateway.model.route import Route

PARTIAL: Final = "partial"
"""The outcome of items of which some could not be asked about: the rest of the answer was given."""


class Decided(NamedTuple):
    """A decision and what it was made of. `decisions[i]` is about `questions[i]`; empty where there was no time.

    `checks[i]` is what `questions[i]` was filled in from, with `items[i]` of a document; empty for the caller's own
    questions. `outcome`, `source`, `code` are those of the access log. `age_s` is of a cached or stale permit.
    """

    request: Request
    route: Route
    subject: Subject
    questions: Sequence[Question]
    decisions: Sequence[Decision]
    checks: Sequence[PreparedCheck]
    outcome: str
    source: str
    code: str = ""
    age_s: float = 0.0
    reason: str = ""
    trace_id: str = ""
    items: Sequence[Mapping[str, Any]] = ()

    @property
    def permitted(self) -> bool:
        """Whether IAM permitted everything that was asked, and nothing stood in for it."""
        return self.outcome == "allow" and all(decision.outcome is Outcome.ALLOW for decision in self.decisions)


class Witness(Protocol):
    """Is told of every decision, in the task of its request."""

    def saw(self, decided: Decided) -> None:
        """Take note. Never raises, never waits."""


def of_items(
    permit: Permit,
    questions: Sequence[Question],
    decisions: Sequence[Decision],
    trace_id: str,
    *,
    checks: Sequence[PreparedCheck] = (),
    items: Sequence[Mapping[str, Any]] = (),
) -> Decided | None:
    """What was decided about the items of one answer; None if nobody asked."""
    if permit.subject is None or not questions:
        return None
    failed = next((decision for decision in decisions if decision.outcome is Outcome.UNKNOWN), None)
    code = failed.fault.code if failed is not None and failed.fault is not None else ""
    return Decided(
        permit.request,
        permit.route,
        permit.subject,
        questions,
        decisions,
        checks,
        "allow" if failed is None else PARTIAL,
        "iam",
        code,
        trace_id=trace_id,
        items=items,
    )


def see_items(witness: Witness, decided: Decided | None) -> None:
    """Tell of the items of one answer, if there were any."""
    if decided is not None:
        witness.saw(decided)
