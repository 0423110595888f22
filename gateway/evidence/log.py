"""The decision log: a line for each decision, by a thread, so that no disk makes a request wait.

Denials and unknowns always have their line; of permits a share does. What the disk does not take in time is dropped and
counted. A bug in here costs lines, never a request.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Mapping
from typing import Final

from gateway.evidence.file import LogFile
from gateway.evidence.lines import Lines
from gateway.model.question import Decision
from gateway.model.settings import DecisionLogSettings
from gateway.telemetry.observer import Observer
from gateway.telemetry.writer import LineWriter
from gateway.witness import Decided

SIGNAL: Final = "decisions"
_FLUSH_S: Final = 2.0


class DecisionLog:
    """Satisfies the seam `Witness`. `chance` gives numbers from 0 up to 1."""

    def __init__(
        self, settings: DecisionLogSettings, observer: Observer, *, chance: Callable[[], float] = random.random
    ) -> None:
        self._observer = observer
        self._permits = settings.permits
        self._chance = chance
        self._lines = Lines(settings)
        self._file = LogFile(settings.path)
        self._writer = LineWriter(self._file, self._dropped)
        self.reopen()

    def saw(self, decided: Decided) -> None:
        """Write its line, unless it is a permit of those that are left out."""
        if decided.permitted and self._permits < 1 and self._chance() >= self._permits:
            return
        try:
            self._writer.write(self._lines.line(decided))
        except Exception as error:  # noqa: BLE001 - evidence must not change what happens to a request
            self._lost(error)

    def differed(self, decided: Decided, others: Mapping[int, Decision]) -> None:
        """Write a line about what another IAM decided otherwise."""
        try:
            self._writer.write(self._lines.difference(decided, others))
        except Exception as error:  # noqa: BLE001 - as above
            self._lost(error)

    def reopen(self) -> None:
        """Go on in the file that has the name now: after a rename."""
        threading.Thread(target=self._file.reopen, name="gateway-decisions", daemon=True).start()

    async def aclose(self) -> None:
        """Write what is left, for a bounded time."""
        await asyncio.to_thread(self._writer.close, _FLUSH_S)
        threading.Thread(target=self._file.close, name="gateway-decisions", daemon=True).start()

    def _lost(self, error: Exception) -> None:
        self._dropped(1)
        self._observer.bug("evidence", error)

    def _dropped(self, count: int) -> None:
        self._observer.lines_dropped(SIGNAL, count)
