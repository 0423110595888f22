"""`gateway report`: outages by cause and length, and what they cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gateway.evidence.outages import Outages
from tests.cli.conftest import Run, folder, run

__all__ = ["folder", "run"]


def at(
    second: int, outcome: str, code: str | None = None, route: str = "orders", source: str = "iam"
) -> dict[str, Any]:
    time = f"2026-04-13T14:{second // 60:02}:{second % 60:02}.000Z"
    return {"time": time, "outcome": outcome, "code": code, "route": route, "source": source, "questions": []}


OUTAGE = [
    at(0, "allow"),
    at(10, "unknown", "iam_timeout"),
    at(11, "unknown", "iam_timeout"),
    *(at(second, "unknown", "iam_circuit_open") for second in range(12, 40)),
    at(20, "stale", "iam_circuit_open", "stock", "stale"),
    at(21, "fallback", "iam_circuit_open", "stock"),
    at(40, "allow"),
]


def document(*lines: dict[str, Any]) -> dict[str, Any]:
    outages = Outages()
    outages.take(lines)
    return outages.document()


def test_an_outage_has_its_cause_its_length_and_its_cost() -> None:
    found = document(*OUTAGE)
    (outage,) = found["outages"]
    assert (outage["cause"], outage["from"], outage["seconds"]) == ("iam_timeout", "2026-04-13T14:00:10.000Z", 29.0)
    assert outage["codes"] == {"iam_circuit_open": 30, "iam_timeout": 2}
    assert (outage["refused"], outage["degraded"]) == (30, 2)
    assert outage["routes"] == {
        "orders": {"refused": 30, "degraded": {}},
        "stock": {"refused": 0, "degraded": {"fallback": 1, "stale": 1}},
    }
    assert found["routes"] == outage["routes"]


def test_decisions_of_iam_tell_two_outages_apart() -> None:
    failed = [at(second, "unknown", "iam_error") for second in (0, 15, 60, 180)]
    assert len(document(*failed)["outages"]) == 2
    assert len(document(failed[0], at(5, "allow"), failed[1])["outages"]) == 2
    assert len(document(failed[0], at(5, "allow"), at(9, "unknown", "iam_error"))["outages"]) == 1


def test_what_is_no_failure_of_iam_is_no_outage() -> None:
    found = document(at(0, "deny", "iam_denied"), at(1, "unknown", "iam_overloaded"), at(2, "unknown", "iam_rejected"))
    assert found["outages"] == []
    assert found["refused_for_other_reasons"] == {"iam_overloaded": 1, "iam_rejected": 1}


def test_the_command_prints_it(run: Run, folder: Path) -> None:
    (folder / "d").write_text("".join(json.dumps(line) + "\n" for line in OUTAGE) + '{"time"')
    ran = run("report", "d")
    ran.says(0, out="iam_timeout for 29.0 s: 30 refused, 2 served degraded", err="1 broken lines")
    assert "stock\t0\t1 fallback, 1 stale" in ran.out.splitlines()
    assert json.loads(run("report", "d", "--output", "json").out) == document(*OUTAGE)


def test_no_outage_is_said_and_what_cannot_be_read_is_2(run: Run, folder: Path) -> None:
    (folder / "d").write_text(json.dumps(at(0, "allow")))
    run("report", "d").says(0, err="no outage in 1 decisions")
    run("report", "nowhere").says(2, err="nowhere")
    run("report", "routes.yaml").says(2, err="not a line of it")
