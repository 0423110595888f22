"""One decision as one line of JSON (docs/evidence.md), with keyed hashes in place of what it must not hold."""

from __future__ import annotations

import hmac
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from gateway.checks import Value
from gateway.model.permit import Check, Decision, Outcome, Question
from gateway.model.settings import DecisionLogSettings
from gateway.template import Placeholder, RequestValues
from gateway.witness import Decided

# Keyed hashes in place of what a log must not hold (HMAC-SHA-256, RFC 2104), and how to know one again.
#
# The key is what keeps a list of known names from being tried. Without one (only where nothing has to be told apart)
# the text is left out.

LEFT_OUT: Final = "hmac-sha256:-"
_PREFIX: Final = "hmac-sha256:"
_HEX: Final = 32
_HASHED: Final = re.compile(rf"{_PREFIX}(?:[0-9a-f]{{{_HEX}}}|-)")


class Hashing:
    """Hashes under one key. The same text gives the same hash, so that lines can be told to be about one subject."""

    def __init__(self, key: str | None) -> None:
        self._key = None if key is None else key.encode()

    def __call__(self, text: str) -> str:
        """The first 128 bits of the HMAC, in hex, under a prefix that no parser takes for a name."""
        if self._key is None:
            return LEFT_OUT
        digest = hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256")
        return _PREFIX + digest.hex()[:_HEX]


def holds_hash(value: Any) -> bool:
    """Whether a text somewhere in this JSON value is, or holds, a hash."""
    if isinstance(value, str):
        return _HASHED.search(value) is not None
    if isinstance(value, dict):
        return any(map(holds_hash, value.values()))
    return isinstance(value, list) and any(map(holds_hash, value))


# Rules: never a token. An opaque token is hashed whatever the settings say. Where the subject is hashed or left out,
# so is what a check has of it (`{subject.id}`, `{claim.NAME}`); where values are hashed, what comes from
# `{header.NAME}` and `{query.NAME}`. The path is the route's template.

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"), default=str)
_OF_SUBJECT: Final = frozenset({"subject.id", "claim"})
_OF_REQUEST: Final = frozenset({"header", "query"})
_SAYS: Final = {Outcome.ALLOW: True, Outcome.DENY: False, Outcome.UNKNOWN: None}


class Lines:
    """Writes decisions in the form that the settings ask for. `wall`: Unix time."""

    def __init__(self, settings: DecisionLogSettings, *, wall: Callable[[], float] = time.time) -> None:
        self._hash = Hashing(settings.key)
        self._subject = settings.subject
        self._properties = settings.properties
        self._hidden = _OF_REQUEST if settings.values == "hash" else frozenset()
        self._wall = wall

    def line(self, decided: Decided) -> str:
        """The line, without its end."""
        return _ENCODER.encode({**self._head(decided), "questions": list(self._questions(decided))})

    def difference(self, decided: Decided, others: Mapping[int, Decision]) -> str:
        """A line about questions that another IAM decided otherwise, by their number: `was` is what was decided."""
        shown = list(self._questions(decided))
        questions = [
            {
                **shown[number],
                "decision": _SAYS[other.outcome],
                "source": "iam_shadow",
                "code": None,
                "was": shown[number]["decision"],
            }
            for number, other in others.items()
        ]
        head = {**self._head(decided), "outcome": "different", "source": "iam_shadow", "code": None, "reason": None}
        return _ENCODER.encode({**head, "questions": questions})

    def _head(self, decided: Decided) -> dict[str, Any]:
        return {
            "time": _timestamp(self._wall()),
            "request_id": decided.request.request_id,
            "trace_id": decided.trace_id or None,
            "route": decided.route.id,
            "method": decided.request.method,
            "path": decided.route.path,
            "subject": self._who(decided),
            "outcome": decided.outcome,
            "source": decided.source,
            "code": decided.code or None,
            "age": round(decided.age_s, 3),
            "reason": decided.reason or None,
        }

    def _who(self, decided: Decided) -> dict[str, Any] | None:
        subject = decided.subject
        if self._subject == "none":
            return None
        if self._subject != "plain" or not subject.identified:
            return {"type": subject.type, "id": self._hash(subject.id)}
        shown: dict[str, Any] = {"type": subject.type, "id": subject.id}
        if self._properties and subject.properties:
            shown["properties"] = subject.properties
        return shown

    def _questions(self, decided: Decided) -> Iterator[dict[str, Any]]:
        hidden = self._hidden if self._subject == "plain" and decided.subject.identified else self._hidden | _OF_SUBJECT
        for number, question in enumerate(decided.questions):
            check = self._shown(decided, number, question, hidden)
            made = {"action": check.action, "resource": check.resource}
            if check.context is not None:
                made["context"] = check.context
            decision = decided.decisions[number] if decided.decisions else None
            yield {**made, **_answer(decision, decided)}

    def _shown(self, decided: Decided, number: int, question: Question, hidden: frozenset[str]) -> Check:
        """The check as it was asked, or with what must not be shown hashed."""
        if not decided.checks:
            return question.check
        prepared = decided.checks[number]
        if not any(placeholder.kind in hidden for placeholder in prepared.placeholders):
            return question.check
        route, item = decided.route, decided.items[number] if decided.items else None
        values = RequestValues(decided.request, route.id, route.path, decided.subject, item)
        return prepared.shown(self._hiding(values, hidden))

    def _hiding(self, values: Value, hidden: frozenset[str]) -> Value:
        def value(placeholder: Placeholder) -> str:
            text = values(placeholder)
            return self._hash(text) if placeholder.kind in hidden else text

        return value


def _answer(decision: Decision | None, decided: Decided) -> dict[str, Any]:
    """What was said to one question; where there was no time for any, why."""
    if decision is None:
        return {"decision": None, "source": decided.source, "code": decided.code or None}
    fault = decision.fault
    return {"decision": _SAYS[decision.outcome], "source": decision.source, "code": fault.code if fault else None}


def _timestamp(now_s: float) -> str:
    """RFC 3339 in UTC, with milliseconds."""
    whole = int(now_s)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((now_s - whole) * 1000):03d}Z"
