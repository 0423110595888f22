"""Counts of one second, or of the seconds of a minute: what is added can be taken away again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gateway.admin.figures import Times


class Tally:
    """What one route did.

    `errors` are answers of 500 and above, those of unknowns included. `causes`: why, by code, of errors and of what was
    degraded. `stood_in`: what served instead of IAM or of the upstream, as `iam stale`, `upstream fallback`.
    """

    __slots__ = ("causes", "degraded", "denied", "errors", "requests", "stood_in", "times", "unknown")
    counted: ClassVar[tuple[str, ...]] = ("requests", "denied", "unknown", "degraded", "errors")

    def __init__(self) -> None:
        self.requests = 0
        self.denied = 0
        self.unknown = 0
        self.degraded = 0
        self.errors = 0
        self.causes: dict[str, int] = {}
        self.stood_in: dict[str, int] = {}
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
    if isinstance(total, Tally) and isinstance(tally, Tally):
        add_counts(total.causes, tally.causes, sign)
        add_counts(total.stood_in, tally.stood_in, sign)
    add_counts(total.times, tally.times, sign)


def add_counts(total: dict[Any, int], counts: Mapping[Any, int], sign: int = 1) -> None:
    """Add counts to others; what becomes nothing is left out."""
    for name, count in counts.items():
        left = total.get(name, 0) + sign * count
        if left:
            total[name] = left
        else:
            total.pop(name, None)


def as_json(tally: Tally | CallTally) -> dict[str, Any]:
    """Everything counted; `times` as `[bucket, count]` pairs."""
    return {
        **{what: getattr(tally, what) for what in tally.counted},
        "times": [list(pair) for pair in tally.times.items()],
        **({"causes": dict(tally.causes)} if isinstance(tally, Tally) else {}),
    }
