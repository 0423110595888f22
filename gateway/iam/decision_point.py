"""What may be asked for decisions: IAM over the network, or the embedded policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.model.question import Decision, Question
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import Span


class DecisionPoint(Protocol):
    """Answers questions. It never raises for its own failures: such an answer is UNKNOWN, with its fault."""

    async def decide(
        self, questions: Sequence[Question], *, deadline: Deadline, request_id: str, span: Span
    ) -> list[Decision]:
        """One decision for each question, in the same order, within the deadline."""

    async def aclose(self) -> None:
        """Let go of what it holds. Who still waits is told that nothing is known."""
