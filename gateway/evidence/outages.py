"""What an outage cost: from the lines of a decision log to outages with their cause, length and what was refused.

An outage is a time in which decisions failed by IAM's own failure. It is over when none failed for a minute, or for ten
seconds in which IAM decided. Its cause is the code that came most often, an open circuit aside: the circuit is what the
cause led to. A refusal for another reason (our own overload, a question that IAM rejects) is counted, and is no outage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from gateway.errors import KINDS
from gateway.evidence.reading import SHADOW

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
