"""Every session in the documents does what the document says it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.console import Session, Step, steps

DOCS = Path(__file__).parents[2] / "docs"
FOLLOWED = {file.name: steps(file) for file in sorted(DOCS.glob("*.md"))}
SESSIONS = {name: found for name, found in FOLLOWED.items() if any(step.command for step in found)}
pytestmark = pytest.mark.hazard


@pytest.mark.parametrize("name", SESSIONS)
def test_the_document_can_be_followed(name: str, tmp_path: Path) -> None:
    session = Session(tmp_path)
    try:
        for step in SESSIONS[name]:
            session.follow(step)
    finally:
        session.end()


def test_the_documents_that_promise_it_have_sessions() -> None:
    assert {"five-minutes.md", "install.md", "migrate.md", "runbook.md"} <= SESSIONS.keys()


def test_a_session_notices_what_is_not_so(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.follow(Step(command="echo one; echo two; echo three", expected=["one", "th…"]))
    with pytest.raises(AssertionError, match="echo one"):
        session.follow(Step(command="echo one", expected=["two"]))
