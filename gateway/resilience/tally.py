"""What has failed so far, and whether it is enough to open: consecutive failures, or a share of the calls in a window.

Deliberately absent: the states of a circuit and their times; they are the breaker's.
"""

from __future__ import annotations

from gateway.model.route import BreakerPolicy
from gateway.resilience.window import SlidingWindow


class Tally:
    """Counts the outcomes of a closed circuit. `now` is monotonic seconds."""

    __slots__ = ("_policy", "_window", "consecutive")

    def __init__(self, policy: BreakerPolicy) -> None:
        self.consecutive = 0
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
        self.consecutive = 0
        if self._window is not None:
            self._window.clear()

    def success(self, now: float) -> None:
        """A call was answered."""
        self.consecutive = 0
        if self._window is not None:
            self._window.add(now, calls=1)

    def failure(self, now: float) -> str:
        """A call failed. Returns why that is enough to open, or an empty string."""
        policy = self._policy
        self.consecutive += 1
        if self._window is not None:
            self._window.add(now, calls=1, marked=1)
        if self.consecutive >= policy.failure_threshold:
            return f"{self.consecutive} consecutive failures"
        return self._too_many(policy)

    def _too_many(self, policy: BreakerPolicy) -> str:
        window = self._window
        if window is None or policy.failure_rate is None or window.calls < policy.min_calls:
            return ""
        if window.marked < policy.failure_rate * window.calls:
            return ""
        return f"{window.marked} of {window.calls} calls failed in {policy.window_s:g}s"
