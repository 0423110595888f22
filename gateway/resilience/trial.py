"""Who may be the one request that tries a dependency whose circuit is not closed.

Rules: one at a time; it has failed when it outlives its limit, whose time stands still while its body has not arrived
whole. Such a request gives way: at once to one that is whole, to another such one after a second; it still closes the
circuit if it is answered first. A subject whose trial failed leaves the next one to others who were refused meanwhile:
for a fifth of the open time (at least a second) after its end. So no caller can keep a circuit open. Times are
monotonic seconds, given by the caller.
"""

from __future__ import annotations

from math import inf
from typing import Final

from gateway.resilience.ticket import Ticket

MAX_SUBJECTS: Final = 16
_GIVES_WAY_S: Final = 1.0
_SHARE: Final = 0.2
_LEAST_S: Final = 1.0


class Trial:
    """The place of the trial, and who had it in vain. `ticket`: whoever has it now."""

    __slots__ = ("_begun_s", "_failed", "_limit_s", "_others", "_until_s", "_whole", "ticket")

    def __init__(self) -> None:
        self.ticket: Ticket | None = None
        self._begun_s = 0.0
        self._limit_s = 0.0
        self._until_s = inf
        self._whole = True
        self._failed: dict[str, None] = {}
        self._others = False

    def begin(self, ticket: Ticket, now_s: float, limit_s: float, *, whole: bool) -> None:
        """The place is taken, from whoever had it. `whole`: the request's body is here, or it has none."""
        self.ticket = ticket
        self._begun_s, self._limit_s, self._whole = now_s, limit_s, whole
        self._until_s = now_s + limit_s if whole else inf

    def arrived(self, ticket: Ticket, now_s: float) -> None:
        """The rest of the body came: from now on it is a trial like others."""
        if ticket is self.ticket and not self._whole:
            self._whole = True
            self._until_s = now_s + self._limit_s

    def end(self) -> None:
        """The place is free."""
        self.ticket = None

    def overdue(self, now_s: float) -> bool:
        """Whether it outlived its limit."""
        return self.ticket is not None and now_s >= self._until_s

    def gives_way(self, now_s: float, *, whole: bool) -> bool:
        """Whether a request may take the place from the one that has it. `whole`: as for `begin`."""
        return not self._whole and (whole or now_s - self._begun_s >= _GIVES_WAY_S)

    # Whose trials failed since the circuit opened

    def failed(self, subject: str) -> bool:
        """A trial of this subject failed. Whether that is news: not if it is the same one's again while others wait."""
        news = not (self._others and subject in self._failed)
        if subject and len(self._failed) < MAX_SUBJECTS:
            self._failed[subject] = None
        self._others = False
        return news

    def refused(self, subject: str) -> None:
        """Somebody was not admitted."""
        if subject not in self._failed:
            self._others = True

    def yield_s(self, subject: str, since_end_s: float, open_s: float) -> float:
        """Seconds for which this subject leaves the trial to others. `since_end_s`: since the open time ended."""
        if not self._others or subject not in self._failed:
            return 0.0
        return max(0.0, max(_LEAST_S, _SHARE * open_s) - since_end_s)

    def forget(self) -> None:
        """The circuit closed."""
        self.ticket = None
        self._failed.clear()
        self._others = False
