"""Runs tables of cases against the policies beside them: `gateway policy test`.

A case passes if the policies decide and decide as it says; a question that they cannot decide (UNKNOWN) fails every
case, because neither answer may be promised of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.model.question import Outcome
from gateway.pdp.case_file import Case, CaseFile, load_cases
from gateway.pdp.cedar import check_installed
from gateway.pdp.point import EmbeddedDecisionPoint, Verdict
from gateway.pdp.problem import PolicyError, Problem


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
