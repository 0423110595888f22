"""Counts of one second, or of the seconds of a minute: what is added can be taken away again."""

from __future__ import annotations

from typing import Any, ClassVar

from gateway.admin.figures import Times


class Tally:
    """What one route did. `errors` are answers of 500 and above, those of unknowns included."""

    __slots__ = ("degraded", "denied", "errors", "requests", "times", "unknown")
    counted: ClassVar[tuple[str, ...]] = ("requests", "denied", "unknown", "degraded", "errors")

    def __init__(self) -> None:
        self.requests = 0
        self.denied = 0
        self.unknown = 0
        self.degraded = 0
        self.errors = 0
        self.times: Times = {}


class CallTally:
    """What the calls to IAM were like. `evaluations` are the questions in them."""

    __slots__ = ("calls", "evaluations", "failed", "times")
    counted: ClassVar[tuple[str, ...]] = ("calls", "evaluations", "failed")

    def __init__(self) -> None:
        self.calls = 0
        self.evaluations = 0
        self.failed = 0
        self.times: Times = {}


def add(total: Tally | CallTally, tally: Tally | CallTally, sign: int = 1) -> None:
    """Add a tally of the same kind to a total; with `sign` -1 take it away."""
    for what in tally.counted:
        setattr(total, what, getattr(total, what) + sign * getattr(tally, what))
    times = total.times
    for bucket, count in tally.times.items():
        left = times.get(bucket, 0) + sign * count
        if left:
            times[bucket] = left
        else:
            del times[bucket]


def as_json(tally: Tally | CallTally) -> dict[str, Any]:
    """Everything counted; `times` as `[bucket, count]` pairs."""
    return {
        **{what: getattr(tally, what) for what in tally.counted},
        "times": [list(pair) for pair in tally.times.items()],
    }
