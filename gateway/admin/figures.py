"""Latency as counts in buckets that grow by a tenth: small enough to keep a minute of, and workers' counts add up.

Rules: a percentile is told as the upper edge of its bucket, so it is never too small and at most a tenth too large;
what takes longer than the last edge (two minutes) is told as that edge.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Final

_FIRST_S: Final = 0.0001
_GROWTH: Final = 1.1
_EDGES: Final = 148
EDGES_S: Final = tuple(_FIRST_S * _GROWTH**number for number in range(_EDGES))
_SHARES: Final = (("p50", 0.50), ("p95", 0.95), ("p99", 0.99))

Times = dict[int, int]
"""Number of a bucket → how many durations fell into it."""


def bucket_of(seconds: float) -> int:
    """The number of the bucket that a duration falls into."""
    return bisect_left(EDGES_S, seconds)


def add_up(many: Iterable[Mapping[int, int]]) -> Times:
    """The sum of several counts."""
    total: Times = {}
    for times in many:
        for bucket, count in times.items():
            total[bucket] = total.get(bucket, 0) + count
    return total


def percentiles_ms(times: Mapping[int, int]) -> dict[str, float | None]:
    """`p50`, `p95` and `p99` in milliseconds; None where nothing was measured."""
    whole = sum(times.values())
    ordered = sorted(times.items())
    return {name: _edge_ms(ordered, whole * share) if whole else None for name, share in _SHARES}


def _edge_ms(ordered: list[tuple[int, int]], rank: float) -> float:
    counts = accumulate(count for _, count in ordered)
    bucket = next(bucket for (bucket, _), seen in zip(ordered, counts, strict=True) if seen >= rank)
    return float(f"{EDGES_S[min(bucket, _EDGES - 1)] * 1000:.3g}")
