"""One line a request on stdout: JSON for machines, text for a terminal (docs/telemetry.md).

Rules: exactly the promised fields; a refusal also has `code` and `reason`. What is refused again and again while
something is down is summed up (`refusals`), and that is all that is written where the access log is off. No query, no
header, no subject. Everything outside printable ASCII is escaped, so that
nothing a client sends can begin a new line or move a cursor.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import Final

from gateway.model.request import AccessRecord
from gateway.telemetry.metrics import status_of
from gateway.telemetry.observer import Observer, Span

# Refusals that repeat while a dependency is down are counted, not written one by one: an outage is no flood of lines.
#
# Rules: one window of a second for each cause and route. Where the access log is on, the first of a window is written
# in full (the first TELLING of causes that come slowly by themselves); the rest of the window is one line with their
# number. Where it is off, all of them are that one line. A second without any closes the window.

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


_UNANSWERED: Final = frozenset({"deny", "unknown"})
_SERVER_ERRORS_FROM: Final = 500
_BUG: Final = "internal_error"


class AccessLog(Observer):
    """Writes `form` of every record, or only the sums of repeated refusals. `summary`: the form of such a sum."""

    def __init__(
        self,
        write: Callable[[str], None],
        form: Callable[[AccessRecord, str, float], str],
        *,
        everything: bool,
        summary: Callable[[Counted, str, float], str] | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], None] = call_later,
    ) -> None:
        self._write = write
        self._form = form
        self._summary = summary or json_summary
        self._everything = everything
        self._clock = clock
        self._monotonic = monotonic
        self._refusals = Refusals(self._tell, in_full=everything, clock=monotonic, later=later)
        self._second = -1
        self._date = ""

    def request_ended(self, record: AccessRecord, span: Span) -> None:
        """See Observer."""
        if record.code in REPEATING and not self._refusals.whole(record):
            return
        if self._everything:
            self._write(self._form(record, self._timestamp(), self._monotonic() - record.started_s))

    def close(self) -> None:
        """Write what was counted and not told yet."""
        self._refusals.close_windows()

    def _tell(self, counted: Counted, period_s: float) -> None:
        self._write(self._summary(counted, self._timestamp(), period_s))

    def _timestamp(self) -> str:
        now_s = self._clock()
        second = int(now_s)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._date}.{int((now_s - second) * 1000):03d}Z"


def json_line(record: AccessRecord, timestamp: str, duration_s: float) -> str:
    """The record as one line of JSON."""
    return (
        f'{{"timestamp":"{timestamp}","level":"{_level(record)}","event":"request",'
        f'"request_id":{quoted(record.request_id)},"trace_id":"{record.trace_id}","span_id":"{record.span_id}",'
        f'"method":{quoted(record.method)},"path":{quoted(record.path)},"route":{_text(record.route)},'
        f'"status":{status_of(record)},"duration_ms":{_ms(duration_s)},"authz":{_authz(record)},'
        f'"upstream":{_text(record.upstream)},"upstream_ms":{_ms(record.upstream_s) if record.upstream else "null"},'
        f'"retries":{record.retries},"degraded":{_text(record.degraded)},"client":{_text(record.client)}'
        f"{_refusal(record)}}}"
    )


def json_summary(counted: Counted, timestamp: str, period_s: float) -> str:
    """Repeated refusals of one cause and route as one line of JSON."""
    return (
        f'{{"timestamp":"{timestamp}","level":"warning","event":"refusals","route":{_text(counted.route)},'
        f'"code":"{counted.code}","status":{counted.status},"count":{counted.count},"period_s":{period_s:.3f},'
        f'"reason":{_text(counted.reason)}}}'
    )


def text_summary(counted: Counted, timestamp: str, period_s: float) -> str:
    """The same for people."""
    where = f" on {_bare(counted.route)}" if counted.route else ""
    why = f" ({_bare(counted.reason)})" if counted.reason else ""
    return f"{timestamp[11:23]} {counted.status} {counted.count:,} x {counted.code}{where} in {period_s:.1f} s{why}"


def text_line(record: AccessRecord, timestamp: str, duration_s: float) -> str:
    """The record for people."""
    parts = [timestamp[11:23], str(status_of(record)), _bare(record.method), _bare(record.path), f"{_ms(duration_s)}ms"]
    if record.authz_outcome:
        parts.append(f"authz={record.authz_outcome}/{record.authz_source} {_ms(record.authz_s)}ms")
    if record.upstream:
        parts.append(f"upstream={record.upstream} {_ms(record.upstream_s)}ms")
    if record.retries:
        parts.append(f"retries={record.retries}")
    if record.degraded:
        parts.append(f"degraded={record.degraded}")
    if record.code:
        parts.append(f"code={record.code}")
    reason = _reason(record)
    if reason:
        parts.append(f"({_bare(reason)})")
    parts.append(f"id={_bare(record.request_id)}")
    return " ".join(parts)


def _level(record: AccessRecord) -> str:
    if record.code == _BUG:
        return "error"
    refused = record.authz_outcome in _UNANSWERED or record.status >= _SERVER_ERRORS_FROM
    return "warning" if refused else "info"


def _authz(record: AccessRecord) -> str:
    if not record.authz_outcome:
        return "null"
    return (
        f'{{"outcome":"{record.authz_outcome}","source":{_text(record.authz_source)},'
        f'"code":{_text(record.authz_code)},"duration_ms":{_ms(record.authz_s)}}}'
    )


def _refusal(record: AccessRecord) -> str:
    code = f',"code":"{record.code}"' if record.code else ""
    reason = _reason(record)
    return f'{code},"reason":{quoted(reason)}' if reason else code


def _reason(record: AccessRecord) -> str:
    if record.client_left:
        return record.reason or "the client left"
    return record.authz_reason or record.reason


def _text(value: str) -> str:
    return quoted(value) if value else "null"


def _bare(value: str) -> str:
    return quoted(value)[1:-1]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3f}"
