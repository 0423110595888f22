"""An outage of IAM must not become one of the log: what repeats is counted, and nothing is lost of the sum."""

from __future__ import annotations

import json

import pytest

from gateway.errors import KINDS
from gateway.telemetry.access_log import (
    CIRCUITS,
    REPEATING,
    TELLING,
    WINDOW_S,
    AccessLog,
    json_line,
    json_summary,
    text_line,
    text_summary,
)
from gateway.telemetry.observer import NO_SPAN
from tests.telemetry.conftest import record

OPEN = {"status": 503, "code": "iam_circuit_open", "authz_outcome": "unknown", "authz_reason": "circuit open"}
SLOW = {"status": 503, "code": "iam_timeout", "authz_outcome": "unknown"}


class Log:
    """An access log whose time is told."""

    def __init__(self, *, everything: bool = True, as_text: bool = False) -> None:
        self.lines: list[str] = []
        self.now_s = 100.0
        self._due: list[tuple[float, object]] = []
        self.log = AccessLog(
            self.lines.append,
            text_line if as_text else json_line,
            everything=everything,
            summary=text_summary if as_text else json_summary,
            clock=lambda: 1_776_090_600.0 + self.now_s,
            monotonic=lambda: self.now_s,
            later=lambda delay_s, call: self._due.append((self.now_s + delay_s, call)),
        )

    def refuse(self, times: int = 1, **changes) -> None:
        for _ in range(times):
            self.log.request_ended(record(started_s=self.now_s, **changes), NO_SPAN)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        due = [call for at_s, call in self._due if at_s <= self.now_s]
        self._due = [entry for entry in self._due if entry[0] > self.now_s]
        for call in due:
            call()

    @property
    def read(self) -> list[dict]:
        return [json.loads(line) for line in self.lines]


def test_the_codes_are_codes_of_the_table():
    assert set(KINDS) >= REPEATING
    assert CIRCUITS <= REPEATING


def test_the_first_of_a_cause_and_route_is_written_in_full_and_the_rest_is_a_number():
    log = Log()
    log.refuse(500, **OPEN)
    log.refuse(300, **OPEN, route="orders")
    assert [(line["event"], line["route"]) for line in log.read] == [("request", "inventory"), ("request", "orders")]
    log.wait(WINDOW_S)
    sums = log.read[2:]
    assert [(line["event"], line["route"], line["code"], line["count"]) for line in sums] == [
        ("refusals", "inventory", "iam_circuit_open", 499),
        ("refusals", "orders", "iam_circuit_open", 299),
    ]
    assert list(sums[0]) == ["timestamp", "level", "event", "route", "code", "status", "count", "period_s", "reason"]
    assert (sums[0]["status"], sums[0]["period_s"], sums[0]["reason"]) == (503, 1.0, "circuit open")


def test_while_it_goes_on_there_is_one_line_a_second_and_no_further_full_one():
    log = Log()
    for _ in range(10):
        log.refuse(1000, **OPEN)
        log.wait(WINDOW_S)
    assert [line["event"] for line in log.read] == ["request"] + ["refusals"] * 10
    assert sum(line["count"] for line in log.read[1:]) == 9_999


def test_after_a_quiet_second_the_next_is_written_in_full_again():
    log = Log()
    log.refuse(3, **OPEN)
    log.wait(WINDOW_S)
    log.wait(WINDOW_S)
    log.refuse(**OPEN)
    assert [line["event"] for line in log.read] == ["request", "refusals", "request"]


def test_causes_that_come_slowly_by_themselves_are_written_in_full_until_they_come_fast():
    log = Log()
    log.refuse(TELLING + 5, **SLOW)
    log.wait(WINDOW_S)
    assert [line["event"] for line in log.read] == ["request"] * TELLING + ["refusals"]
    assert log.read[-1]["count"] == 5


@pytest.mark.parametrize("changes", [OPEN, SLOW, {"status": 503, "code": "upstream_circuit_open"}])
def test_where_the_log_is_off_only_the_number_is_written(changes):
    log = Log(everything=False)
    log.refuse(2000, **changes)
    assert log.lines == []
    log.wait(WINDOW_S)
    assert [(line["event"], line["count"]) for line in log.read] == [("refusals", 2000)]


def test_what_was_counted_is_written_at_the_end():
    log = Log()
    log.refuse(7, **OPEN)
    log.log.close()
    assert log.read[-1]["count"] == 6


def test_a_loop_that_was_too_busy_to_call_loses_nothing():
    log = Log()
    log.refuse(7, **OPEN)
    log.now_s += 5
    log.refuse(**OPEN)
    assert [line.get("count") for line in log.read] == [None, 6]
    log.wait(WINDOW_S)
    assert log.read[-1]["count"] == 1


def test_denials_and_other_answers_are_never_summed_up():
    log = Log()
    log.refuse(50, status=403, code="iam_denied", authz_outcome="deny")
    log.refuse(50, status=502, code="upstream_unreachable")
    log.refuse(50)
    assert len(log.lines) == 150


def test_the_sum_for_people():
    log = Log(as_text=True)
    log.refuse(1201, **OPEN)
    log.wait(WINDOW_S)
    assert log.lines[1].endswith(" 503 1,200 x iam_circuit_open on inventory in 1.0 s (circuit open)")
