"""Asks the questions of a decision log again, of another decision point or of other policies.

Rules: what cannot be asked in the same words is not asked at all. A decision point that fails is asked again after a
pause, and given up when it fails for good: then nothing is known, which is not the same as no difference.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.checks import make_check
from gateway.evidence.questions import Logged, LoggedQuestions
from gateway.iam.decision_point import DecisionPoint
from gateway.model.question import Decision, Outcome, Question
from gateway.model.subject import Subject
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import NO_SPAN

AT_ONCE: Final = 400
_PATIENCE_S: Final = 60.0
_PAUSES_S: Final = (0.5, 2.0, 5.0)


@dataclass(slots=True)
class Replayed:
    """How many distinct questions were answered, how many differ, and how many could not be asked, with the reason."""

    asked: int = 0
    changed: int = 0
    unanswered: int = 0
    reason: str = ""


async def replay(
    questions: LoggedQuestions, point: DecisionPoint, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> Replayed:
    """Ask all of them. What differs is remembered in `questions`."""
    result = Replayed()
    for chunk in questions.chunks(AT_ONCE):
        usable = [(logged, made) for logged in chunk if (made := question_of(logged.document)) is not None]
        result.unanswered += len(chunk) - len(usable)
        decisions = await _decided(point, [made for _, made in usable], sleep)
        for (logged, _), decision in zip(usable, decisions, strict=True):
            _compare(logged, decision, questions, result)
        if usable and all(decision.outcome is Outcome.UNKNOWN for decision in decisions):
            result.unanswered = len(questions) - result.asked
            break
    return result


def _compare(logged: Logged, decision: Decision, questions: LoggedQuestions, result: Replayed) -> None:
    if decision.outcome is Outcome.UNKNOWN or decision.unauthenticated:
        result.unanswered += 1
        result.reason = decision.fault.reason or decision.fault.code if decision.fault else result.reason
        return
    result.asked += 1
    now = decision.outcome is Outcome.ALLOW
    if now is not logged.was:
        result.changed += 1
        questions.changed(logged, now=now)


async def _decided(
    point: DecisionPoint, asked: Sequence[Question], sleep: Callable[[float], Awaitable[None]]
) -> list[Decision]:
    """One decision each; what is unknown is asked again."""
    decisions = await _ask(point, asked)
    for pause_s in _PAUSES_S:
        open_ = [at for at, decision in enumerate(decisions) if decision.outcome is Outcome.UNKNOWN]
        if not open_:
            break
        await sleep(pause_s)
        for at, decision in zip(open_, await _ask(point, [asked[at] for at in open_]), strict=True):
            decisions[at] = decision
    return decisions


async def _ask(point: DecisionPoint, asked: Sequence[Question]) -> list[Decision]:
    if not asked:
        return []
    deadline = Deadline.after(_PATIENCE_S)
    return list(await point.decide(asked, deadline=deadline, request_id="replay", span=NO_SPAN))


def question_of(document: Mapping[str, Any]) -> Question | None:
    """The question, as it was asked; None for what is none."""
    subject, action = _subject(document["subject"]), _named(document["action"])
    resource, context = _resource(document["resource"]), document.get("context")
    if subject is None or action is None or resource is None or not isinstance(context, dict | None):
        return None
    try:
        return Question(subject, make_check(action, resource, context))
    except ValueError:
        return None


def _subject(value: Any) -> Subject | None:
    shown = {"type": "identity", "id": value} if isinstance(value, str) else value
    if not isinstance(shown, dict) or not _text(shown.get("type")) or not _text(shown.get("id")):
        return None
    properties = shown.get("properties", {})
    if not isinstance(properties, dict):
        return None
    asked = {"type": shown["type"], "id": shown["id"], **({"properties": properties} if properties else {})}
    text = json.dumps(asked, ensure_ascii=False, separators=(",", ":"))
    return Subject(type=shown["type"], id=shown["id"], key=f"replay:{text}", document=text, properties=properties)


def _named(value: Any) -> Mapping[str, Any] | None:
    shown = {"name": value} if isinstance(value, str) else value
    return shown if isinstance(shown, dict) and _text(shown.get("name")) else None


def _resource(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, str):
        type_, _, id_ = value.partition(":")
        value = {"type": type_, "id": id_}
    return value if isinstance(value, dict) and _text(value.get("type")) and _text(value.get("id")) else None


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""
