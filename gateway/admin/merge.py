"""Documents of several workers → one document that speaks for all of them.

Rules: what counts is added up, times are the latest, a breaker is shown in the worst state that any worker has it in,
with how many workers have it open; what the configuration says is the same everywhere and taken from the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

_WORST: Final = ("open", "half_open", "closed")
_ADDED: Final = ("in_flight", "streams")


def merge_breakers(workers: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Every breaker by name."""
    names = dict.fromkeys(name for breakers in workers for name in breakers)
    return {name: _worst([breakers[name] for breakers in workers if name in breakers]) for name in names}


def merge_status(workers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`/status` of all workers."""
    if not workers:
        return {"workers": 0}
    first = workers[0]
    return {
        **first,
        **{name: sum(worker[name] for worker in workers) for name in _ADDED},
        "workers": len(workers),
        "ready": all(worker["ready"] for worker in workers),
        "draining": any(worker["draining"] for worker in workers),
        "breakers": merge_breakers([worker["breakers"] for worker in workers]),
        "cache": {"entries": sum(worker["cache"]["entries"] for worker in workers)},
    }


def _worst(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    worst = min(states, key=lambda state: (_WORST.index(state["state"]), -state["remaining_s"]))
    return {**worst, "open_in": sum(state["state"] == "open" for state in states), "workers": len(states)}
