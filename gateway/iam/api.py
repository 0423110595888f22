"""What a protocol of IAM has to offer: the questions of one call in, as many decisions out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.iam.wire import Note
from gateway.model.question import Decision, Question


class Api(Protocol):
    """One way of asking. It knows bodies and replies; queueing, retries and the breaker are around it."""

    @property
    def max_size(self) -> int:
        """How many questions fit into one call now."""

    @property
    def operation(self) -> str:
        """Method and path as configured or standardised, for spans."""

    async def ask(self, questions: Sequence[Question], note: Note) -> list[Decision]:
        """One decision for each question, in order. Raises CallFailure."""
