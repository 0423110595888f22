"""One timer per connection that watches for silence and for the deadline.

Rules: starting a watch sets two numbers; the timer is only touched when what is due is earlier than what is armed, and
when it fires too early it arms itself again for the rest. So a busy connection arms a timer about once per time limit
instead of once per read, and a reused one never cancels any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

from gateway.resilience.deadline import Deadline

_SLACK_S: Final = 0.001
"""uvloop's timers have whole milliseconds and may be that much early."""


class Watch:
    """Calls `on_silence` or `on_deadline` once the time is over. `deadline` None: only silence counts."""

    __slots__ = ("_due_s", "_loop", "_on_deadline", "_on_silence", "_since_s", "_timer", "deadline", "silence_s")

    def __init__(self, on_silence: Callable[[], None], on_deadline: Callable[[], None]) -> None:
        self.deadline: Deadline | None = None
        self.silence_s = inf
        self._since_s = 0.0
        self._due_s = inf
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._on_silence = on_silence
        self._on_deadline = on_deadline

    def start(self, silence_s: float) -> None:
        """From now on there may be silence for `silence_s` seconds; `inf`: nobody waits."""
        now = self._since_s = self._loop.time()
        self.silence_s = silence_s
        due = now + silence_s
        deadline = self.deadline
        if deadline is not None and deadline.at_s < due:
            due = deadline.at_s
        if due < self._due_s:
            self._arm(due)

    def heard(self) -> None:
        """There was a sign of life: silence begins anew."""
        self._since_s = self._loop.time()

    def stop(self) -> None:
        """Nothing is waited for any more."""
        self.deadline = None
        self.silence_s = inf

    def close(self) -> None:
        """The connection is over."""
        self.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = due_s
        self._timer = self._loop.call_at(due_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._due_s = inf
        now = self._loop.time() + _SLACK_S
        deadline_s = inf if self.deadline is None else self.deadline.at_s
        silent_until_s = self._since_s + self.silence_s
        if deadline_s <= now:
            self._on_deadline()
        elif silent_until_s <= now:
            self._on_silence()
        elif min(deadline_s, silent_until_s) < inf:
            self._arm(min(deadline_s, silent_until_s))
