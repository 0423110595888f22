"""Counts of a breaker: failures in a row, and the rate of them within a window."""

from __future__ import annotations

from typing import Final

from gateway.model.route import BreakerPolicy

# How many calls, and how many of a kind, in the last seconds: ten slices that slide.
#
# Rules: constant memory and constant cost whatever the rate; a slice is forgotten as a whole, so the window is exact
# to a tenth of its length. Deliberately absent: any clock (the caller passes `now`), any decision.

_SLICES = 10


class SlidingWindow:
    """Counts `calls` and `marked` ones (failures, retries) over the last `window_s` seconds."""

    __slots__ = ("_calls", "_latest", "_marked", "_slice_s", "calls", "marked", "window_s")

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._slice_s = window_s / _SLICES
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._calls = [0] * _SLICES
        self._marked = [0] * _SLICES
        self._latest = 0
        self.calls = 0
        self.marked = 0

    def add(self, now: float, *, calls: int = 0, marked: int = 0) -> None:
        """Count calls and marked ones at `now` (monotonic seconds)."""
        index = int(now / self._slice_s)
        if index != self._latest:
            self._slide(index)
        self._calls[index % _SLICES] += calls
        self._marked[index % _SLICES] += marked
        self.calls += calls
        self.marked += marked

    def slide(self, now: float) -> None:
        """Forget what is older than the window, so that `calls` and `marked` are of now."""
        index = int(now / self._slice_s)
        if index != self._latest:
            self._slide(index)

    def _slide(self, index: int) -> None:
        for stale in range(max(self._latest + 1, index - _SLICES + 1), index + 1):
            place = stale % _SLICES
            self.calls -= self._calls[place]
            self.marked -= self._marked[place]
            self._calls[place] = self._marked[place] = 0
        self._latest = index


# What has failed so far, and whether it is enough to open: consecutive failures, or a share of the calls in a window.
#
# Deliberately absent: the states of a circuit and their times; they are the breaker's.

_TALLY_SLICES: Final = 10


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
        """Use another policy. The counts stay, unless the window has another length."""
        self._policy = policy
        if policy.failure_rate is None:
            self._window = None
        elif self._window is None or self._window.window_s != policy.window_s:
            self._window = SlidingWindow(policy.window_s)

    def clear(self) -> None:
        """The circuit closed: start counting again."""
        self.consecutive = self._answered = 0
        if self._window is not None:
            self._window.clear()

    def success(self, now: float) -> None:
        """A call was answered."""
        self.consecutive = 0
        if now >= self._slice_end_s:  # this runs for every request, so the window is updated once per slice of time
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
            self._slice_s, self._slice_end_s = now, now + self._policy.window_s / _TALLY_SLICES
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
