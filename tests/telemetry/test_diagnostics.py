"""The lines that runbooks search for, and what may not stand in them."""

from __future__ import annotations

import json
import logging
import re

import pytest

from gateway.telemetry.diagnostics import Diagnostics, install


@pytest.fixture
def lines():
    written: list[str] = []
    undo = install(written.append)
    yield written
    undo()


def fail(text: str) -> None:
    raise ValueError(text)


def test_changes_of_circuits_and_retries_are_worded_as_promised(lines):
    Diagnostics().circuit("iam", "iam", "closed", "open", "5 consecutive failures, last: iam_timeout")
    Diagnostics().retry("user-audit.Workday", 2, 3, "upstream_timeout")
    Diagnostics().circuit("iam", "iam", "half_open", "closed", "trial succeeded")
    assert [line.split("Z ", 1)[1] for line in lines] == [
        "WARNING [resilience] [iam] Circuit CLOSED → OPEN (5 consecutive failures, last: iam_timeout)",
        "WARNING [resilience] [Workday] Retry attempt 2/3 (upstream_timeout)",
        "INFO [resilience] [iam] Circuit HALF_OPEN → CLOSED (trial succeeded)",
    ]


def test_a_bug_is_told_in_full_and_cannot_imitate_a_line(lines):
    with pytest.raises(ValueError, match="all is well") as caught:
        fail("x\n2026-01-01 INFO all is well\x1b[2J")
    Diagnostics().bug("pipeline", caught.value)
    first, *rest = lines[0].split("\n")
    assert first.endswith("ERROR [pipeline] Bug: ValueError")
    assert all(line.startswith("  ") for line in rest)
    assert "\x1b" not in lines[0]
    assert "test_diagnostics.py" in lines[0]


def test_control_characters_of_others_are_escaped(lines):
    logging.getLogger("gateway").warning("from %s", "a\r\nb\x1b\u202ec\x85\u2028d")
    assert lines[0].endswith(r"from a\u000d\u000ab\u001b\u202ec\u0085\u2028d")


def test_libraries_are_quiet_about_addresses(lines):
    logging.getLogger("httpx").info("HTTP Request: GET https://idp.example/jwks?key=secret")
    assert lines == []
    logging.getLogger("uvicorn.error").warning("kept")
    assert len(lines) == 1


def test_as_json_every_line_is_one_object():
    written: list[str] = []
    undo = install(written.append, "json")
    Diagnostics().circuit("iam", "iam", "closed", "open", "a\nb \u202e")
    with pytest.raises(ValueError, match="wrong") as caught:
        fail("wrong")
    Diagnostics().bug("pipeline", caught.value)
    undo()
    first, second = map(json.loads, written)
    assert [len(line.splitlines()) for line in written] == [1, 1]
    assert "\u202e" not in written[0]
    assert (first["level"], first["event"]) == ("warning", "log")
    assert first["message"] == "[resilience] [iam] Circuit CLOSED → OPEN (a\nb \u202e)"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["timestamp"])
    assert "ValueError: wrong" in second["exception"]


def test_undoing_leaves_logging_as_it_was():
    logger = logging.getLogger("httpx")
    logger.setLevel(logging.DEBUG)
    before = list(logging.getLogger().handlers)
    install(lambda line: None)()
    assert logging.getLogger().handlers == before
    assert logger.level == logging.DEBUG
    logger.setLevel(logging.NOTSET)


def test_a_line_that_cannot_be_written_is_not_an_error(capsys):
    def broken(line: str) -> None:
        raise OSError("gone")

    undo = install(broken)
    logging.getLogger("gateway").warning("x")
    undo()
    assert "OSError" in capsys.readouterr().err
