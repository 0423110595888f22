"""The distinct questions of a decision log, on disk: memory stays the same for a thousand lines and for a million.

What stands in for IAM is not what IAM said, so stale and fail-open answers are left aside, and so is what nobody
answered. Of a question that was answered several times the last answer counts.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from gateway.evidence.hashing import holds_hash
from gateway.evidence.reading import SHADOW

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
