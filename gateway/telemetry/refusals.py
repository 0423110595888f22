"""Refusals that repeat while a dependency is down are counted, not written one by one: an outage is no flood of lines.

Rules: one window of a second for each cause and route. Where the access log is on, the first of a window is written in
full (the first TELLING of causes that come slowly by themselves); the rest of the window is one line with their number.
Where it is off, all of them are that one line. A second without any closes the window.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.model.record import AccessRecord

WINDOW_S: Final = 1.0
TELLING: Final = 10
CIRCUITS: Final = frozenset({"iam_circuit_open", "upstream_circuit_open"})
REPEATING: Final = CIRCUITS | {
    "iam_timeout",
    "iam_unreachable",
    "iam_error",
    "iam_invalid_response",
    "iam_auth_error",
    "iam_overloaded",
    "identity_unavailable",
    "overloaded",
    "upstream_overloaded",
}
"""Codes by which every request is refused for as long as something is down or full."""


@dataclass(slots=True)
class Counted:
    """What one window of one cause and route has counted. `reason` is the last one's."""

    code: str
    route: str
    in_full: int
    count: int = 0
    status: int = 0
    reason: str = ""


def call_later(delay_s: float, call: Callable[[], None]) -> None:
    """By the running loop; without one, the next refusal closes the window."""
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop().call_later(delay_s, call)


class Refusals:
    """Counts repeated refusals. `tell` is called with each window that counted, and its length in seconds."""

    def __init__(
        self,
        tell: Callable[[Counted, float], None],
        *,
        in_full: bool,
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], None] = call_later,
    ) -> None:
        self._tell = tell
        self._in_full = in_full
        self._clock = clock
        self._later = later
        self._windows: dict[tuple[str, str], Counted] = {}
        self._since_s = 0.0

    def whole(self, record: AccessRecord) -> bool:
        """Whether this one, whose code is in REPEATING, is to be written in full. If not, it was counted."""
        now_s = self._clock()
        if self._windows and now_s - self._since_s >= 2 * WINDOW_S:  # the loop was too busy to call us
            self.close_windows()
        if not self._windows:
            self._open(now_s)
        key = (record.code, record.route)
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = Counted(*key, in_full=self._allowance(record.code))
        if window.in_full > 0:
            window.in_full -= 1
            return True
        window.count += 1
        window.status, window.reason = record.status, record.authz_reason or record.reason
        return False

    def close_windows(self) -> None:
        """Tell what was counted. A cause that goes on stays counted, so that it is not written in full again."""
        now_s = self._clock()
        counted = [window for window in self._windows.values() if window.count]
        self._windows.clear()
        for window in counted:
            self._tell(window, max(now_s - self._since_s, 0.001))
            self._windows[window.code, window.route] = Counted(window.code, window.route, in_full=0)
        if self._windows:
            self._open(now_s)

    def _open(self, now_s: float) -> None:
        self._since_s = now_s
        self._later(WINDOW_S, self._close_if_due)

    def _close_if_due(self) -> None:
        if self._windows and self._clock() - self._since_s >= WINDOW_S * 0.9:
            self.close_windows()

    def _allowance(self, code: str) -> int:
        if not self._in_full:
            return 0
        return 1 if code in CIRCUITS else TELLING
