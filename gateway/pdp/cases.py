"""Tables of cases, `*.cases.toml`: who asks what, what must be answered, and whether it is: `gateway policy test`."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.model.permit import Outcome
from gateway.pdp.cedar import check_installed
from gateway.pdp.point import EmbeddedDecisionPoint, Verdict
from gateway.pdp.problem import PolicyError, Problem, did_you_mean, problem_at, read_source

# Reads tables of cases, `*.cases.toml`: who asks what, and what must be answered.
#
# ```toml [[case]] why = "operators read every system"       # what the case promises subject = "alice"
# # an id of type identity, a table {type, id, properties}, or a list of them check = "read system:inventory"
# # as in routes.yaml, a table {action, resource, context}, or a list of them allow = true ```
#
# Each subject is combined with each check. Rules: all keys are required and no others are known; every mistake of
# every file is collected with its place. TOML's reader does not say where a value stood, so the lines are looked at
# again: the n-th `[[case]]` line begins the n-th case, and a key stands where its line begins with it.

SUFFIX: Final = ".cases.toml"
_KEYS: Final = ("why", "subject", "check", "allow")
_SUBJECT_KEYS: Final = ("type", "id", "properties")
_CHECK_KEYS: Final = ("action", "resource", "context")
_HEADER: Final = re.compile(r"^[ \t]*\[\[[ \t]*case[ \t]*\]\]", re.MULTILINE)
_AT: Final = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Case:
    """One question and its answer. `place` is `FILE:LINE:COL`, `asks` the question in words."""

    place: str
    why: str
    asks: str
    document: Mapping[str, Any]
    allow: bool


@dataclass(frozen=True, slots=True)
class CaseFile:
    """A file and its cases in order."""

    name: str
    cases: tuple[Case, ...]


def load_cases(folder: Path, problems: list[Problem]) -> list[CaseFile]:
    """Every table of cases in a folder. Adds to `problems`."""
    files = sorted(folder.glob(f"*{SUFFIX}"))
    loaded = []
    for file in files:
        text = read_source(file, problems)
        if text is not None:
            loaded.append(CaseFile(file.name, tuple(_Reader(file, text, problems).cases())))
    if not files:
        problems.append(Problem(str(folder), 1, 1, "no-cases", f"there is no table of cases (*{SUFFIX})"))
    return loaded


class _Reader:
    def __init__(self, file: Path, text: str, problems: list[Problem]) -> None:
        self._file = file
        self._text = text
        self._problems = problems
        self._headers = [found.start() for found in _HEADER.finditer(text)]

    def cases(self) -> list[Case]:
        try:
            document = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            self._syntax(str(error))
            return []
        for name in document.keys() - {"case"}:
            self._add(self._key_offset(name, 0, len(self._text)), "unknown-key", _unknown(name, ("case",)))
        items = document.get("case", [])
        if not isinstance(items, list) or not items:
            self._add(0, "case-shape", "there is no [[case]] in this file")
            return []
        return [case for index, item in enumerate(items) for case in self._case(index, item)]

    def _case(self, index: int, item: Any) -> list[Case]:
        if not isinstance(item, dict):
            self._add(self._start(index), "case-shape", "a case is a table")
            return []
        before = len(self._problems)
        for name in item.keys() - set(_KEYS):
            self._add_key(index, name, "unknown-key", _unknown(name, _KEYS))
        for name in _KEYS:
            if name not in item:
                self._add(self._start(index), "missing-key", f"the case has no '{name}'")
        if not isinstance(item.get("allow", True), bool):
            self._add_key(index, "allow", "case-shape", "'allow' is true or false")
        if not isinstance(item.get("why", ""), str):
            self._add_key(index, "why", "case-shape", "'why' is text")
        subjects = [self._subject(index, value) for value in _several(item.get("subject", ""))]
        checks = [self._check(index, value) for value in _several(item.get("check", ""))]
        if len(self._problems) > before:
            return []
        place = problem_at(self._file, self._text, self._start(index), "", "")
        return [
            Case(
                f"{place.file}:{place.line}:{place.col}",
                item["why"],
                f"{who} {what}",
                {**subject, **check},
                item["allow"],
            )
            for who, subject in subjects
            for what, check in checks
        ]

    def _subject(self, index: int, value: Any) -> tuple[str, dict[str, Any]]:
        if isinstance(value, str):
            return value, {"subject": {"type": "identity", "id": value}}
        if not isinstance(value, dict):
            self._add_key(index, "subject", "case-shape", "a subject is an id or a table {type, id, properties}")
            return "", {}
        for name in value.keys() - set(_SUBJECT_KEYS):
            self._add_key(index, "subject", "unknown-key", _unknown(name, _SUBJECT_KEYS))
        return f"{value.get('type')}:{value.get('id')}{_and_more(value)}", {"subject": value}

    def _check(self, index: int, value: Any) -> tuple[str, dict[str, Any]]:
        if isinstance(value, str):
            action, _, resource = value.partition(" ")
            kind, _, name = resource.partition(":")
            if not (action and kind and name):
                self._add_key(index, "check", "case-check", f"'{value}' is not \"<action> <type>:<id>\"")
            return value, {"action": {"name": action}, "resource": {"type": kind, "id": name}}
        if not isinstance(value, dict):
            self._add_key(index, "check", "case-shape", "a check is a text or a table {action, resource, context}")
            return "", {}
        for name in value.keys() - set(_CHECK_KEYS):
            self._add_key(index, "check", "unknown-key", _unknown(name, _CHECK_KEYS))
        return _in_words(value), dict(value)

    def _start(self, index: int) -> int:
        return self._headers[index] if index < len(self._headers) else 0

    def _add_key(self, index: int, name: str, problem_id: str, message: str) -> None:
        end = self._headers[index + 1] if index + 1 < len(self._headers) else len(self._text)
        self._add(self._key_offset(name, self._start(index), end), problem_id, message)

    def _key_offset(self, name: str, start: int, end: int) -> int:
        found = re.compile(rf'^[ \t]*(\[*[ \t]*"?{re.escape(name)}\b)', re.MULTILINE).search(self._text, start, end)
        return found.start(1) if found else start

    def _syntax(self, message: str) -> None:
        found = _AT.search(message)
        what = message[: found.start()] if found else message
        what = what[:1].lower() + what[1:]
        if found and found[1]:
            self._problems.append(Problem(str(self._file), int(found[1]), int(found[2]), "toml-syntax", what))
        else:
            self._add(len(self._text), "toml-syntax", what)

    def _add(self, offset: int, problem_id: str, message: str) -> None:
        self._problems.append(problem_at(self._file, self._text, offset, problem_id, message))


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _unknown(name: str, known: tuple[str, ...]) -> str:
    return f"unknown key '{name}'{did_you_mean(name, known)}"


def _in_words(check: Mapping[str, Any]) -> str:
    action, resource = check.get("action"), check.get("resource")
    name = action.get("name") if isinstance(action, Mapping) else None
    if not isinstance(resource, Mapping):
        return f"{name} ?"
    context = " in a context" if "context" in check else ""
    return f"{name} {resource.get('type')}:{resource.get('id')}{_and_more(resource)}{context}"


def _and_more(holder: Mapping[str, Any]) -> str:
    properties = holder.get("properties")
    return f" {json.dumps(properties, default=str)}" if isinstance(properties, Mapping) else ""


# Runs tables of cases against the policies beside them: `gateway policy test`.
#
# A case passes if the policies decide and decide as it says; a question that they cannot decide (UNKNOWN) fails every
# case, because neither answer may be promised of it.


@dataclass(frozen=True, slots=True)
class Result:
    """A case and what the policies said."""

    case: Case
    verdict: Verdict

    @property
    def passed(self) -> bool:
        """Whether they said what the case demands."""
        return self.verdict.outcome is (Outcome.ALLOW if self.case.allow else Outcome.DENY)

    @property
    def outcome(self) -> str:
        """What they said, in one word."""
        return self.verdict.outcome.value


@dataclass(frozen=True, slots=True)
class FileResult:
    """The results of one table, in order."""

    name: str
    results: tuple[Result, ...]


def run_cases(folder: Path) -> list[FileResult]:
    """All tables of a folder. Raises PolicyError with the mistakes of policies, entities and cases together."""
    check_installed(folder)
    problems: list[Problem] = []
    point = None
    try:
        point = EmbeddedDecisionPoint.load(folder)
    except PolicyError as error:
        problems += error.problems
    files = load_cases(folder, problems) if folder.is_dir() else []
    if point is None or problems:
        raise PolicyError(problems)
    return [_run(point, file) for file in files]


def _run(point: EmbeddedDecisionPoint, file: CaseFile) -> FileResult:
    verdicts = point.evaluate_all([case.document for case in file.cases])
    return FileResult(file.name, tuple(map(Result, file.cases, verdicts)))
