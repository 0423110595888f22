"""What an outage costs callers, in figures that add up; and codes in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from gateway.errors import KINDS

Document = dict[str, Any]

WORDS: Final = {
    "upstream_timeout": "times out",
    "upstream_unreachable": "cannot be reached",
    "upstream_circuit_open": "is not asked: its circuit is open",
    "upstream_protocol_error": "does not speak proper HTTP",
    "upstream_overloaded": "has no connection free",
    "deadline_exceeded": "takes longer than the deadline",
    "iam_timeout": "IAM does not answer in time",
    "iam_unreachable": "IAM cannot be reached",
    "iam_error": "IAM answers with errors",
    "iam_invalid_response": "IAM's answers make no sense",
    "iam_auth_error": "IAM does not accept the gateway's token",
    "iam_circuit_open": "IAM is not asked: its circuit is open",
    "iam_rejected": "IAM rejects the questions",
}
OWN: Final = {
    "overloaded": (
        "Too many requests at once",
        "More requests come in than max_concurrency lets through; the others get 503.",
    ),
    "iam_overloaded": (
        "Too many questions wait for IAM",
        "More questions come in than IAM answers: iam.max_queue is full. The ones above it get 503.",
    ),
    "identity_unavailable": ("Tokens cannot be verified", "The keys of the issuer cannot be had, see the log."),
    "internal_error": ("The gateway itself has an error", "A bug: the log has all of it."),
    "draining": ("Requests come in while the gateway stops", "Its load balancer still sends requests."),
}
"""What is no upstream's fault and not IAM's: the title and the reason of the problem."""
NEXT: Final = {
    "overloaded": "It ends when fewer requests come in, or answers come faster. Or raise max_concurrency.",
    "iam_overloaded": "It ends when IAM answers faster or fewer requests come in.",
    "identity_unavailable": "The gateway fetches the keys again by itself. Check that the issuer can be reached.",
    "internal_error": "Look at the gateway's log and report the error.",
    "draining": "Take this gateway out of its load balancer.",
}
"""What happens or helps, by the codes of OWN."""
_GOT: Final = {
    "stale": "got an old answer",
    "fallback": "got the route's own answer",
    "partial": "got a partial answer",
}
_OF_IAM: Final = {
    "stale": "were let in by an old permit",
    "local": "were decided by the embedded policies",
    "fallback": "got the route's own answer",
    "partial": "got a partial answer",
    "allow": "were let in unchecked",
    "fail_open": "were let in unchecked",
}
_PAST: Final = (
    ("cannot be", "could not be"),
    ("does not", "did not"),
    ("do not", "did not"),
    ("is not", "was not"),
    (" is ", " was "),
    ("times out", "timed out"),
    ("answers", "answered"),
    ("takes", "took"),
    ("make no", "made no"),
    ("rejects", "rejected"),
    ("has no", "had no"),
)
_NAMED: Final = 4


def said(code: str) -> str:
    """A code in words."""
    if code.isdigit() or code.startswith("http_"):
        return f"answers {code.removeprefix('http_')}"
    return WORDS.get(code, code.replace("_", " ") or "reason not known")


def past(words: str) -> str:
    """Of something that is over."""
    if "IAM's answers" in words:
        return words.replace("make", "made")
    for now, then in _PAST:
        words = words.replace(now, then)
    return words


def cause_unknown(whom: str) -> str:
    """What is said where only the other side knows more."""
    return f"The gateway cannot see why: look at the log of {whom}."


def without_others(outage: Document, causes: Mapping[str, int]) -> Document:
    """An outage of a route with the errors of `causes` alone; `others` failed for another reason."""
    others = sum(count for code, count in outage["causes"].items() if code not in causes)
    errors = max(0, outage["errors"] - others)
    return {**outage, "causes": dict(causes), "errors": errors, "others": outage["errors"] - errors}


def effect_of(outages: Iterable[Document], whose: str = "") -> str:
    """What outages cost so far: of which routes, how many requests, what became of them, and how many were normal."""
    each = list(outages)
    asked = sum(one["requests"] for one in each)
    if not asked:
        return ""
    names = sorted({one["name"] or "no route" for one in each})
    parts = [f"{count:,} {_of(count, words)}" for words, count in _parts(each).items() if count]
    noun = "request" if asked == 1 else "requests"
    return f"{capital(whose or _listed(names))}: {asked:,} {noun}, {', '.join(parts)}."


def _of(count: int, words: str) -> str:
    return words.replace("were ", "was ", 1) if count == 1 else words


def shares_of(outage: Document) -> str:
    """What became of the requests of one route, in percent, without those that were normal."""
    whole = max(1, outage["requests"])
    parts = [f"{round(100 * count / whole)} % {words}" for words, count in _parts([outage]).items() if count]
    return ", ".join(part for part in parts if not part.endswith(" normal")) or "normal"


def others_of(names: Collection[str], document: Document) -> str:
    """How the other routes are."""
    rest = [route for route in document["routes"] if route["id"] not in names]
    bad = sum(1 for route in rest if route["now"]["state"])
    if not rest:
        return ""
    return f" Other routes: {bad} of {len(rest)} not as usual, see the table." if bad else " Other routes: normal."


def _parts(outages: list[Document]) -> dict[str, int]:
    failed = sum(one["errors"] for one in outages)
    others = sum(one.get("others", 0) for one in outages)
    served = Counter[str]()
    for one in outages:
        for mode, count in one["degraded"].items():
            words = _GOT if one["what"] == "route" else _OF_IAM
            served[words.get(mode, f"were served by {mode}")] += count
    asked = sum(one["requests"] for one in outages)
    normal = max(0, asked - failed - others - sum(served.values()))
    return {
        f"got {_status(outages)}": failed,
        **dict(served.most_common()),
        "failed for another reason": others,
        "normal": normal,
    }


def _status(outages: Iterable[Document]) -> str:
    """The status that callers got, where all got the same."""
    codes = {code.removeprefix("http_") for one in outages if one["errors"] for code in one["causes"]}
    statuses = {code if code.isdigit() else str(KINDS[code].status) if code in KINDS else "5xx" for code in codes}
    return statuses.pop() if len(statuses) == 1 else "5xx"


def _listed(names: list[str]) -> str:
    """`route a`, `routes a and b`, `routes a, b, c, d and 3 more`."""
    if len(names) == 1:
        return f"route {names[0]}"
    if len(names) > _NAMED:
        return f"routes {', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"
    return f"routes {', '.join(names[:-1])} and {names[-1]}"


def lasting(seconds: float) -> str:
    """How long, as people say it."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"  # two minutes


def capital(text: str) -> str:
    """As a sentence begins."""
    return text[:1].upper() + text[1:]
