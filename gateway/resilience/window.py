"""How many calls, and how many of a kind, in the last seconds: ten slices that slide.

Rules: constant memory and constant cost whatever the rate; a slice is forgotten as a whole, so the window is exact to a
tenth of its length. Deliberately absent: any clock (the caller passes `now`), any decision.
"""

from __future__ import annotations

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
