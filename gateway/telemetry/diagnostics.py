"""What is not a request: changes of circuits, retries, reloads, bugs, on stderr in lines that people know how to read.

Rules: the wording of circuits and retries is fixed, as runbooks search for it; nothing that a peer or a client sent can
begin a new line or move a cursor; a library's own debug chatter is not shown, and httpx's lines with whole URLs never.
As text or, with `server.log: json`, one JSON object a line.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from typing import Any, Final

from gateway.telemetry.observer import Observer

_log: Final = logging.getLogger("gateway")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_FORMAT: Final = "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s"
_DATE: Final = "%Y-%m-%dT%H:%M:%S"
TEXT: Final = "text"
JSON: Final = "json"
_QUIET: Final = ("httpx", "httpcore", "urllib3", "asyncio")


class Diagnostics(Observer):
    """Hooks → log lines."""

    def retry(self, target: str, attempt: int, attempts: int, code: str) -> None:
        """See Observer. A part of an aggregate is named without its route."""
        name = target.rpartition(".")[2]
        _log.warning("[resilience] [%s] Retry attempt %d/%d (%s)", name, attempt, attempts, code)

    def circuit(self, name: str, kind: str, before: str, after: str, reason: str) -> None:
        """See Observer."""
        level = logging.INFO if after == "closed" else logging.WARNING
        _log.log(level, "[resilience] [%s] Circuit %s → %s (%s)", name, before.upper(), after.upper(), reason)

    def bug(self, where: str, error: BaseException) -> None:
        """See Observer."""
        _log.error("[%s] Bug: %s", where, type(error).__name__, exc_info=error)


def formatter(form: str) -> logging.Formatter:
    """Of lines in that form: `text` or `json`."""
    return (_Json if form == JSON else _Utc)(_FORMAT, _DATE)


class LineHandler(logging.Handler):
    """Hands every record as one line (and its traceback) to `write`, which does not wait."""

    def __init__(self, write: Callable[[str], None], form: str = TEXT) -> None:
        super().__init__()
        self._write = write
        self.setFormatter(formatter(form))

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        try:
            self._write(self.format(record))
        except Exception:  # noqa: BLE001 - logging's own contract: a line that cannot be made is told and passed over
            self.handleError(record)


class _Utc(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """The line and its traceback, which another handler may have formatted in its own way before."""
        theirs, record.exc_text = record.exc_text, None
        try:
            return super().format(record)
        finally:
            record.exc_text = theirs

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """The line without traceback, its control characters escaped."""
        return _shown(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - as above
        """The traceback, escaped and indented: no line of it can be taken for one of ours."""
        return "\n".join("  " + _shown(line) for line in super().formatException(ei).split("\n"))


class _Json(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """One object, a traceback among its members."""
        shown = {
            "timestamp": f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": "log",
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            shown["exception"] = self.formatException(record.exc_info)
        return _shown(json.dumps(shown, ensure_ascii=False))


def _shown(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def install(write: Callable[[str], None], form: str = TEXT) -> Callable[[], None]:
    """Send Python's logging to `write`, as `text` or `json`; gives back what undoes it."""
    root, handler = logging.getLogger(), LineHandler(write, form)
    levels = {name: logging.getLogger(name).level for name in ("gateway", *_QUIET)}
    logging.getLogger("gateway").setLevel(logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    root.addHandler(handler)

    def undo() -> None:
        root.removeHandler(handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)

    return undo
