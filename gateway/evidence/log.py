"""The decision log: a line for each decision, by a thread, so that no disk makes a request wait."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import stat
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from gateway.evidence.lines import Lines
from gateway.model.permit import Decision
from gateway.model.settings import DecisionLogSettings
from gateway.telemetry.observer import Observer
from gateway.telemetry.writer import LineWriter
from gateway.witness import Decided

# The file of the decision log: appended to by every worker, for its owner's eyes only, opened anew when told to.
#
# Rules: 0600, also where the file was there before; a regular file and nothing else. Lines of several workers do not
# mix, as each write is one append. What a full disk cut off is ended by a line break before the next line, so that it
# spoils no other. Trouble and its end are each logged once.

_LOG: Final = logging.getLogger("gateway")
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_OWNER_ONLY: Final = 0o600
_OTHERS: Final = 0o177
_END: Final = b"\n"


class LogFile:
    """Takes what a LineWriter writes, in its thread. Raises OSError for what could not be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._open_line = False
        self._cut_off = False
        self._failing = False
        self._using = threading.Lock()

    def write(self, data: memoryview | bytes, /) -> int:
        """Append what fits; how many bytes that was."""
        with self._using:
            try:
                written = self._append(data)
            except OSError as error:
                self._cut_off = self._open_line
                self._failed(error)
                raise
            self._failed(None)
            return written

    def reopen(self) -> None:
        """Go on in the file that has the name now. Waits for the disk, so not for the event loop."""
        with self._using:
            self._close()
            try:
                self._file = self._opened()
            except OSError as error:
                self._failed(error)

    def close(self) -> None:
        """Let go of the file."""
        with self._using:
            self._close()

    def _append(self, data: memoryview | bytes) -> int:
        if self._file is None:
            self._file = self._opened()
        if self._cut_off:
            os.write(self._file, _END)
            self._cut_off = False
        written = os.write(self._file, data)
        if written:
            self._open_line = data[written - 1] != _END[0]
        return written

    def _opened(self) -> int:
        file = os.open(self._path, _FLAGS, _OWNER_ONLY)
        try:
            self._cut_off = _prepared(file)
        except BaseException:
            os.close(file)
            raise
        self._open_line = False
        return file

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _failed(self, error: OSError | None) -> None:
        """Say that lines are lost, or that they are not any more; once each."""
        if error is not None and not self._failing:
            _LOG.error("[evidence] decisions are not logged: %s: %s", self._path, error.strerror or error)
        elif error is None and self._failing:
            _LOG.warning("[evidence] decisions are logged again: %s", self._path)
        self._failing = error is not None


def _prepared(file: int) -> bool:
    """Keep others out. Whether its last line has no end. OSError for what is no regular file."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if status.st_mode & _OTHERS:
        os.fchmod(file, _OWNER_ONLY)
    return status.st_size > 0 and os.pread(file, 1, status.st_size - 1) != _END


# Denials and unknowns always have their line; of permits a share does. What the disk does not take in time is dropped
# and counted. A bug in here costs lines, never a request.

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
