"""Reads a decision log, and tells what its outages cost: cause, length, and what was refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from gateway.errors import KINDS

# Reads a decision log, line by line, in memory that does not grow with it.
#
# Rules: a line that is broken (cut off by a crash or a full disk) is counted and passed over; one that is longer than
# any line of ours is broken too. A file in which nothing is a line of ours is no decision log.

MAX_LINE_BYTES: Final = 1024 * 1024
SHADOW: Final = "iam_shadow"


class UnreadableError(Exception):
    """The file cannot be read, or is no decision log: one line for people."""


class DecisionLines:
    """The lines of a file, as JSON objects. `good` and `broken` count them, while they are read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.good = 0
        self.broken = 0

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """Raises UnreadableError."""
        try:
            with self._path.open("rb") as file:
                yield from self._lines(file)
        except OSError as error:
            raise UnreadableError(f"{self._path}: {error.strerror or error}") from None
        if self.broken and not self.good:
            raise UnreadableError(f"{self._path}: not a line of it is a decision")

    def _lines(self, file: IO[bytes]) -> Iterator[Mapping[str, Any]]:
        while raw := file.readline(MAX_LINE_BYTES + 1):
            line = _parsed(raw)
            if line is not None:
                self.good += 1
                yield line
            elif raw.strip():
                self.broken += 1
                _skip_rest(file, raw)


def _parsed(raw: bytes) -> Mapping[str, Any] | None:
    """The line as an object with what every line of ours has; None for anything else."""
    if len(raw) > MAX_LINE_BYTES:
        return None
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    ours = isinstance(line, dict) and isinstance(line.get("questions"), list) and isinstance(line.get("outcome"), str)
    return line if ours else None


def _skip_rest(file: IO[bytes], raw: bytes) -> None:
    """Of a line that is too long."""
    while raw and not raw.endswith(b"\n"):
        raw = file.readline(MAX_LINE_BYTES)


# An outage is a time in which decisions failed by IAM's own failure. It is over when none failed for a minute, or for
# ten seconds in which IAM decided. Its cause is the code that came most often, an open circuit aside: the circuit is
# what the cause led to. A refusal for another reason (our own overload, a question that IAM rejects) is counted, and
# is no outage.

QUIET_S: Final = 60.0
QUIET_WHILE_DECIDING_S: Final = 10.0
_CIRCUIT: Final = "iam_circuit_open"
_BY_IAM: Final = frozenset({"iam", "coalesced"})


@dataclass(slots=True)
class Cost:
    """What happened to the requests of one route: `refused`, or `degraded` by outcome."""

    refused: int = 0
    degraded: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: str) -> None:
        """One decision."""
        if outcome == "unknown":
            self.refused += 1
        else:
            self.degraded[outcome] += 1

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {"refused": self.refused, "degraded": dict(sorted(self.degraded.items()))}


@dataclass(slots=True)
class Outage:
    """One outage; times are Unix time of its first and last failed decision."""

    begun_s: float
    ended_s: float
    codes: Counter[str] = field(default_factory=Counter)
    routes: dict[str, Cost] = field(default_factory=dict)

    @property
    def cause(self) -> str:
        """The code that came most often, an open circuit only if there is no other."""
        causes = Counter({code: count for code, count in self.codes.items() if code != _CIRCUIT}) or self.codes
        return max(causes, key=lambda code: causes[code])

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "cause": self.cause,
            "from": _shown(self.begun_s),
            "to": _shown(self.ended_s),
            "seconds": round(self.ended_s - self.begun_s, 3),
            "codes": dict(self.codes.most_common()),
            **_total(self.routes.values()),
            "routes": {route: cost.document() for route, cost in sorted(self.routes.items())},
        }


class Outages:
    """Takes lines in the order in which they were written."""

    def __init__(self) -> None:
        self.found: list[Outage] = []
        self.lines = 0
        self.routes: dict[str, Cost] = {}
        self.other: Counter[str] = Counter()
        self._decided = False

    def take(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """All of them."""
        for line in lines:
            at_s = _unix(line.get("time"))
            if at_s is not None and line.get("source") != SHADOW:
                self.lines += 1
                self._line(line, at_s)

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "lines": self.lines,
            "outages": [outage.document() for outage in self.found],
            **_total(self.routes.values()),
            "routes": {route: cost.document() for route, cost in sorted(self.routes.items())},
            "refused_for_other_reasons": dict(self.other.most_common()),
        }

    def _line(self, line: Mapping[str, Any], at_s: float) -> None:
        code, outcome, route = line.get("code"), line["outcome"], str(line.get("route"))
        if not isinstance(code, str) or outcome in ("allow", "deny"):
            self._decided = self._decided or line.get("source") in _BY_IAM
        elif code not in KINDS or not KINDS[code].degrades:
            self.other[code] += 1
        else:
            self._failed(code, outcome, route, at_s)

    def _failed(self, code: str, outcome: str, route: str, at_s: float) -> None:
        outage = self.found[-1] if self.found else None
        quiet_s = QUIET_WHILE_DECIDING_S if self._decided else QUIET_S
        if outage is None or at_s - outage.ended_s > quiet_s:
            outage = Outage(at_s, at_s)
            self.found.append(outage)
        self._decided = False
        outage.ended_s = max(outage.ended_s, at_s)
        outage.codes[code] += 1
        outage.routes.setdefault(route, Cost()).add(outcome)
        self.routes.setdefault(route, Cost()).add(outcome)


def _total(costs: Iterable[Cost]) -> dict[str, int]:
    each = list(costs)
    return {"refused": sum(cost.refused for cost in each), "degraded": sum(cost.degraded.total() for cost in each)}


def _unix(value: Any) -> float | None:
    try:
        at = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return at.timestamp() if at.tzinfo else at.replace(tzinfo=UTC).timestamp()


def _shown(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
