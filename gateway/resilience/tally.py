"""What has failed so far, and whether it is enough to open: consecutive failures, or a share of the calls in a window.

Deliberately absent: the states of a circuit and their times; they are the breaker's.
"""

from __future__ import annotations

from typing import Final

from gateway.model.route import BreakerPolicy
from gateway.resilience.window import SlidingWindow

_SLICES: Final = 10


class Tally:
    """Counts the outcomes of a closed circuit. `now` is monotonic seconds."""

    __slots__ = ("_answered", "_policy", "_slice_end_s", "_slice_s", "_window", "consecutive")

    def __init__(self, policy: BreakerPolicy) -> None:
        self.consecutive = 0
        self._answered = 0
        self._slice_s = self._slice_end_s = 0.0
        self._window: SlidingWindow | None = None
        self.update(policy)

    def update(self, policy: BreakerPolicy) -> None:
        """Go on under another policy; what was counted stays, unless the window has another length."""
        self._policy = policy
        if policy.failure_rate is None:
            self._window = None
        elif self._window is None or self._window.window_s != policy.window_s:
            self._window = SlidingWindow(policy.window_s)

    def clear(self) -> None:
        """The circuit closed: start anew."""
        self.consecutive = self._answered = 0
        if self._window is not None:
            self._window.clear()

    def success(self, now: float) -> None:
        """A call was answered."""
        self.consecutive = 0
        if now >= self._slice_end_s:  # this runs for every request: the window learns of a slice of time at once
            self._add_answered(now)
        self._answered += 1

    def failure(self, now: float, *, consecutive: bool = True, at_least: int = 0) -> None:
        """A call failed. `consecutive`: the dependency is to blame; the share of failed calls has it either way.

        `at_least`: so many in a row are the dependency's own, as is known now.
        """
        if consecutive:
            self.consecutive = max(self.consecutive + 1, at_least)
        if self._window is not None:
            self._add_answered(now)
            self._window.add(now, calls=1, marked=1)

    def _add_answered(self, now: float) -> None:
        if self._window is not None:
            self._window.add(self._slice_s, calls=self._answered)
            self._slice_s, self._slice_end_s = now, now + self._policy.window_s / _SLICES
        self._answered = 0

    def in_a_row(self) -> str:
        """Why the consecutive failures are enough to open, or an empty string."""
        enough = self.consecutive >= self._policy.failure_threshold
        return f"{self.consecutive} consecutive failures" if enough else ""

    def too_many(self) -> str:
        """Why the failures within the window are enough to open, or an empty string."""
        policy, window = self._policy, self._window
        if window is None or policy.failure_rate is None or window.calls < policy.min_calls:
            return ""
        if window.marked < policy.failure_rate * window.calls:
            return ""
        return f"{window.marked} of {window.calls} calls failed in {policy.window_s:g}s"
