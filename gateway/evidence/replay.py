"""The distinct questions of a decision log, asked again of another decision point or of other policies."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from gateway.checks import make_check
from gateway.evidence.lines import holds_hash
from gateway.evidence.outages import SHADOW
from gateway.iam.client import DecisionPoint
from gateway.model.permit import Decision, Outcome, Question
from gateway.model.request import Subject
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import NO_SPAN

# The distinct questions of a decision log, on disk: memory stays the same for a thousand lines and for a million.
#
# What stands in for IAM is not what IAM said, so stale and fail-open answers are left aside, and so is what nobody
# answered. Of a question that was answered several times the last answer counts.

_ASIDE: Final = frozenset({"stale", "fail_open", SHADOW})
_MOST_REMEMBERED: Final = 20_000
_AT_ONCE: Final = 2000
_SETUP: Final = """
pragma journal_mode = off; pragma synchronous = off; pragma cache_size = -8000; pragma temp_store = file;
create table questions (number integer primary key, digest blob unique, document text, was integer);
create table changes (document text, was integer, now integer);
"""
_PUT: Final = """
insert into questions (digest, document, was) values (?, ?, ?) on conflict (digest) do update set was = excluded.was
"""


class Logged(NamedTuple):
    """A question as it was logged (subject, action, resource, perhaps context) and what was answered."""

    document: Mapping[str, Any]
    was: bool


class Change(NamedTuple):
    """A question that is answered otherwise now."""

    document: Mapping[str, Any]
    was: bool
    now: bool


class LoggedQuestions:
    """Gathers questions. `hidden` counts questions, as logged, that cannot be asked: something in them is hashed.

    `bare`: whether one of them has a subject without properties.
    """

    def __init__(self) -> None:
        self.hidden = 0
        self.bare = False
        self._base = sqlite3.connect("", isolation_level=None)  # a file of its own that nobody else can open
        self._base.executescript(_SETUP)
        self._recent: dict[bytes, bool] = {}

    def __len__(self) -> int:
        (count,) = self._base.execute("select count(*) from questions").fetchone()
        return int(count)

    def gather(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take every question of these lines."""
        rows: list[tuple[bytes, str, bool]] = []
        self._base.execute("begin")
        for line in lines:
            rows += self._rows(line)
            if len(rows) >= _AT_ONCE:
                self._base.executemany(_PUT, rows)
                rows = []
        self._base.executemany(_PUT, rows)
        self._base.execute("commit")

    def chunks(self, size: int) -> Iterator[list[Logged]]:
        """All of them, in the order in which they were first asked."""
        last = 0
        while True:
            rows = self._base.execute(
                "select number, document, was from questions where number > ? order by number limit ?", (last, size)
            ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield [Logged(json.loads(document), bool(was)) for _, document, was in rows]

    def changed(self, logged: Logged, *, now: bool) -> None:
        """Remember that the answer is another one now."""
        text = json.dumps(logged.document, ensure_ascii=False)
        self._base.execute("insert into changes values (?, ?, ?)", (text, logged.was, now))

    def changes(self) -> Iterator[Change]:
        """What was remembered, in order."""
        for document, was, now in self._base.execute("select document, was, now from changes order by rowid"):
            yield Change(json.loads(document), bool(was), bool(now))

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()

    def _rows(self, line: Mapping[str, Any]) -> Iterator[tuple[bytes, str, bool]]:
        subject = line.get("subject")
        for question in line["questions"]:
            logged = _logged(subject, question)
            if logged is None:
                continue
            if subject is None or holds_hash(logged.document):
                self.hidden += 1
                continue
            self.bare = self.bare or not isinstance(subject, dict) or "properties" not in subject
            text = json.dumps(logged.document, ensure_ascii=False, sort_keys=True)
            digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if self._recent.get(digest) is not logged.was:
                self._remember(digest, was=logged.was)
                yield digest, text, logged.was

    def _remember(self, digest: bytes, *, was: bool) -> None:
        """So that a question that comes again and again is not written again and again."""
        if len(self._recent) >= _MOST_REMEMBERED:
            self._recent.clear()
        self._recent[digest] = was


def _logged(subject: Any, question: Any) -> Logged | None:
    """The question with its answer; None if it has none that IAM, or the policies, gave."""
    if not isinstance(question, dict) or question.get("source") in _ASIDE:
        return None
    was = question.get("decision")
    if not isinstance(was, bool) or not question.get("action") or not question.get("resource"):
        return None
    document = {"subject": subject, "action": question["action"], "resource": question["resource"]}
    if question.get("context") is not None:
        document["context"] = question["context"]
    return Logged(document, was)


# Rules: what cannot be asked in the same words is not asked at all. A decision point that fails is asked again after
# a pause, and given up when it fails for good: then nothing is known, which is not the same as no difference.

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
