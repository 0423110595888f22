"""What each worker says of itself → one document that speaks for all of them. One process alone is one worker.

Rules: what counts is added up, percentiles are taken of the sums, times are the latest, a breaker is shown in the worst
state that any worker has it in, with how many workers have it open; what the configuration says is the same everywhere
and taken from the first, and where workers run on different configurations that is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final

from gateway.admin.cost import merge_last_outage, merge_shadow
from gateway.admin.figures import CallTally, Tally, add_up, merge_outages, percentiles_ms
from gateway.admin.now import add_words
from gateway.admin.recent import MOST_REFUSALS
from gateway.admin.troubles import problems

_WORST: Final = ("open", "half_open", "closed")
_ADDED: Final = ("in_flight", "streams")
_ADDED_OF_IAM: Final = ("queue", "in_flight", "calls")
_ADDED_OF_ORIGIN: Final = ("in_flight", "idle", "connecting", "pending")
_RATES: Final = ("rate_10s", "rate_1m")
_SHARES: Final = ("denied", "unknown", "degraded", "errors")

Document = dict[str, Any]


def merge_breakers(workers: Sequence[dict[str, Document]]) -> dict[str, Document]:
    """Every breaker by name."""
    names = dict.fromkeys(name for breakers in workers for name in breakers)
    return {name: _worst([breakers[name] for breakers in workers if name in breakers]) for name in names}


def merge_status(workers: Sequence[Document], expected: int = 1) -> Document:
    """`/status`, of what the workers that answered say. `expected`: how many there should be."""
    if not workers:
        return {"workers": 0, "workers_expected": expected, "ready": False}
    first = workers[0]
    breakers = merge_breakers([worker["breakers"] for worker in workers])
    merged = {
        **first,
        **{name: sum(worker[name] for worker in workers) for name in _ADDED},
        "workers": len(workers),
        "workers_expected": expected,
        "time_s": max(worker["time_s"] for worker in workers),
        "ready": all(worker["ready"] for worker in workers) and len(workers) == expected,
        "draining": any(worker["draining"] for worker in workers),
        "config": _config([worker["config"] for worker in workers]),
        "iam": _iam([worker["iam"] for worker in workers], breakers),
        "breakers": breakers,
        "routes": [_route(rows) for rows in _matched([worker["routes"] for worker in workers])],
        "unrouted": _figures([worker["unrouted"] for worker in workers]),
        "history": _history([worker["history"] for worker in workers]),
        "refusals": _refusals([worker["refusals"] for worker in workers]),
        "upstreams": _upstreams([worker["upstreams"] for worker in workers]),
        "cache": {"entries": sum(worker["cache"]["entries"] for worker in workers)},
        "outages": merge_outages([worker["outages"] for worker in workers]),
        "iam_outage": merge_last_outage(worker["iam_outage"] for worker in workers),
        "shadow": merge_shadow([worker["shadow"] for worker in workers]),
        "copies": _sum_of([worker["copies"] for worker in workers], tuple(first["copies"])),
    }
    add_words(merged)
    merged["problems"] = problems(merged)
    return merged


def _worst(states: Sequence[Document]) -> Document:
    worst = min(states, key=lambda state: (_WORST.index(state["state"]), -state["remaining_s"], -state["set_aside_s"]))
    latest = max(states, key=lambda state: state["consecutive_failures"])
    return {
        **worst,
        "consecutive_failures": latest["consecutive_failures"],
        "last_failure": worst["last_failure"] or latest["last_failure"],
        "open_in": sum(state["state"] == "open" for state in states),
        "workers": len(states),
    }


def _config(configs: Sequence[Document]) -> Document:
    return {
        **configs[0],
        "hashes": list(dict.fromkeys(config["hash"] for config in configs)),
        "loaded_at_s": max(config["loaded_at_s"] for config in configs),
        "reload_problems": list(dict.fromkeys(line for config in configs for line in config["reload_problems"])),
        "refused_since_s": min((one["refused_since_s"] for one in configs if one["refused_since_s"]), default=None),
    }


def _iam(iams: Sequence[Document], breakers: dict[str, Document]) -> Document:
    """IAM's card: its settings, its breaker, and the calls of the last minute."""
    lately = [iam["lately"] for iam in iams]
    calls = _sum_of(lately, CallTally.counted)
    errors = [iam["last_error"] for iam in iams if iam.get("last_error")]
    breaker = breakers.get("iam")
    return {
        **{name: value for name, value in iams[0].items() if name != "lately"},
        **_sum_of([iam for iam in iams if "queue" in iam], _ADDED_OF_IAM),
        "state": breaker["state"] if breaker else "closed",
        "forced": breaker["forced"] if breaker else None,
        "remaining_s": breaker["remaining_s"] if breaker else 0.0,
        "trial": bool(breaker and breaker["trial"]),
        "calls_1m": calls["calls"],
        "failed_1m": calls["failed"],
        "mean_batch_size": round(calls["evaluations"] / calls["calls"], 2) if calls["calls"] else None,
        "latency_ms": percentiles_ms(add_up(dict(one["times"]) for one in lately)),
        "last_error": _latest(errors),
        "answered_at_s": max((iam["answered_at_s"] for iam in iams if iam.get("answered_at_s")), default=None),
        **({"urls": _urls([iam["urls"] for iam in iams])} if "urls" in iams[0] else {}),
    }


def _latest(errors: Sequence[Document | None]) -> Document | None:
    return max((error for error in errors if error), key=lambda error: error["at_s"], default=None)


def _urls(many: Sequence[Sequence[Document]]) -> list[Document]:
    """How each url is: set aside where one worker has set it aside."""
    return [
        {
            "url": each[0]["url"],
            "set_aside": any(one["set_aside"] for one in each),
            "last_error": _latest([one["last_error"] for one in each]),
        }
        for each in zip(*many, strict=False)
    ]


def _matched(tables: Sequence[Sequence[Document]]) -> list[list[Document]]:
    """The rows of every route that the first worker has, by id."""
    by_id = [{row["id"]: row for row in table} for table in tables]
    return [[rows[row["id"]] for rows in by_id if row["id"] in rows] for row in tables[0]]


def _route(rows: Sequence[Document]) -> Document:
    about = {name: value for name, value in rows[0].items() if name not in {"lately", "in_flight"}}
    return {
        **about,
        "in_flight": sum(row["in_flight"] for row in rows),
        **_figures([row["lately"] for row in rows if row["lately"]]),
    }


def _figures(many: Sequence[Document | None]) -> Document:
    """Of one route: counts of the last minute, rates, percentiles, and the shares of what was counted."""
    some = [figures for figures in many if figures]
    counts = _sum_of(some, Tally.counted)
    whole = counts["requests"]
    return {
        **counts,
        **{name: round(sum(figures[name] for figures in some), 2) for name in _RATES},
        "latency_ms": percentiles_ms(add_up(dict(figures["times"]) for figures in some)),
        "causes": _counts(figures["causes"] for figures in some),
        "shares": {name: round(counts[name] / whole, 4) if whole else 0.0 for name in _SHARES},
    }


def _counts(many: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for counts in many:
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
    return total


def _history(many: Sequence[Document]) -> Document:
    return {
        name: [sum(second) for second in zip_longest(*(one[name] for one in many), fillvalue=0)]
        for name in Tally.counted
    }


def _refusals(many: Sequence[list[Document]]) -> list[Document]:
    together = [refusal for refusals in many for refusal in refusals]
    return sorted(together, key=lambda refusal: -refusal["at_s"])[:MOST_REFUSALS]


def _upstreams(many: Sequence[dict[str, Document]]) -> dict[str, Document]:
    return {
        name: {
            "name": name,
            "origins": [
                {
                    "origin": origins[0]["origin"],
                    **_sum_of(origins, _ADDED_OF_ORIGIN),
                    "set_aside_s": max(origin["set_aside_s"] for origin in origins),
                    "ill": any(origin["ill"] for origin in origins),
                    "last_error": _latest([origin["last_error"] for origin in origins]),
                }
                for origins in zip(*(one[name]["origins"] for one in many if name in one), strict=False)
            ],
        }
        for name in many[0]
    }


def _sum_of(documents: Sequence[Document], names: tuple[str, ...]) -> Document:
    return {name: sum(document[name] for document in documents) for name in names}
