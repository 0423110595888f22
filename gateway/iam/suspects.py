"""Subjects whose questions IAM left without an answer while it answered others: their next ones delay only themselves.

Rules: for HELD_S a suspect's questions leave in calls of their own, not together with somebody else's, and all suspects
together have at most half of the places for calls. There are at most MOST of them: where more would be, it is no
client's doing, and the oldest is forgotten. Times are monotonic seconds, given by the caller.
"""

from __future__ import annotations

from typing import Final

HELD_S: Final = 30.0
MOST: Final = 16


class Suspects(dict[str, float]):
    """Since when each is one. Nearly always empty, and then there is nothing to ask here."""

    def add(self, subject: str, now_s: float) -> None:
        """IAM was silent about a question of this subject alone."""
        self.pop(subject, None)
        if len(self) >= MOST:
            del self[next(iter(self))]
        self[subject] = now_s

    def forget_before(self, since_s: float) -> None:
        """Who has given no reason since then is none any more."""
        for subject in [subject for subject, at_s in self.items() if at_s < since_s]:
            del self[subject]
