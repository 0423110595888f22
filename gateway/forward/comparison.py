"""Where systems disagree about one and the same thing: pairwise, in the order of the systems.

Rules: only systems that answered and found are compared; what a system does not say counts as null. Values are compared
as JSON: `1` is `1.0`, but neither is `true`; the order of members says nothing, the order of a list does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from gateway.forward.pointer import ABSENT, look_up, parse
from gateway.model.route import Comparison

Discrepancy = dict[str, Any]


class Comparer:
    """The comparisons of one aggregate, their pointers parsed. `systems` are all systems in order."""

    def __init__(self, comparisons: Sequence[Comparison], systems: Sequence[str]) -> None:
        self._comparisons = [
            (one.field, one.severity, [(name, parse(one.values[name])) for name in systems if name in one.values])
            for one in comparisons
        ]

    def discrepancies(self, found: Mapping[str, Any]) -> list[Discrepancy]:
        """All disagreements between the bodies of the systems in `found`."""
        return [
            {
                "field": field,
                "system_a": system_a,
                "value_a": value_a,
                "system_b": system_b,
                "value_b": value_b,
                "severity": severity,
            }
            for field, severity, pointers in self._comparisons
            for (system_a, value_a), (system_b, value_b) in combinations(_values(pointers, found), 2)
            if not same(value_a, value_b)
        ]


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same value."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)


def _values(pointers: Sequence[tuple[str, tuple[str, ...]]], found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    values = [(name, look_up(found[name], tokens)) for name, tokens in pointers if name in found]
    return [(name, None if value is ABSENT else value) for name, value in values]
