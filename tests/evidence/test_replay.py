"""`gateway replay`: the differences are exactly those that were made, and what can't be asked is told."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.evidence.replay import LoggedQuestions, replay
from gateway.model.permit import DENY
from tests.authorize.conftest import FakeIam, fault
from tests.cli.conftest import Run, folder, run

__all__ = ["folder", "run"]
MAY = "permit (principal, action, resource);"
MAY_NOT = 'forbid (principal == Identity::"alice", action, resource == System::"b");'


def line(subject: Any, resource: str, decision: bool | None = True, **changed: Any) -> dict[str, Any]:
    shown = {"type": "identity", "id": subject} if isinstance(subject, str) else subject
    type_, _, id_ = resource.partition(":")
    question = {"action": {"name": "read"}, "resource": {"type": type_, "id": id_}, "decision": decision}
    question |= {"source": "iam", "code": None} | changed
    return {"time": "2026-04-13T14:30:00.123Z", "subject": shown, "outcome": "allow", "questions": [question]}


def write(path: Path, *lines: dict[str, Any], end: str = "") -> str:
    path.write_text("".join(json.dumps(each) + "\n" for each in lines) + end)
    return str(path)


@pytest.fixture
def policies(folder: Path) -> Callable[..., str]:
    def made(text: str) -> str:
        (folder / "new").mkdir(exist_ok=True)
        (folder / "new" / "a.cedar").write_text(text)
        return "new"

    return made


def test_differences_are_exactly_those_that_were_made(run: Run, folder: Path, policies: Any) -> None:
    log = write(folder / "d", *(line(who, f"system:{what}") for who in ("alice", "bob") for what in "abcabc"))
    ran = run("replay", log, "--against", policies(MAY + MAY_NOT), "--output", "json")
    assert ran.code == 1
    assert json.loads(ran.out) == {
        "asked": 6,
        "changed": [
            {
                "subject": {"type": "identity", "id": "alice"},
                "action": {"name": "read"},
                "resource": {"type": "system", "id": "b"},
                "was": True,
                "now": False,
            }
        ],
    }
    run("replay", log, "--against", policies(MAY)).says(0, err="6 questions asked, 0 answers differ")
    run("replay", log, "--against", policies(MAY_NOT)).says(1, out="alice\tread\tsystem:b\tpermit\tdeny")


def test_a_subject_is_asked_about_with_the_properties_that_were_logged(run: Run, folder: Path, policies: Any) -> None:
    """The same name in two roles is two questions."""
    clerk, boss = ({"type": "identity", "id": "alice", "properties": {"role": role}} for role in ("clerk", "boss"))
    log = write(folder / "d", line(clerk, "system:a"), line(boss, "system:a"))
    only = policies('permit (principal, action, resource) when { principal has role && principal.role == "boss" };')
    ran = run("replay", log, "--against", only, "--output", "json")
    assert ran.code == 1
    document = json.loads(ran.out)
    assert (document["asked"], [change["subject"] for change in document["changed"]]) == (2, [clerk])
    broken = write(folder / "e", line({"type": "identity", "id": "alice", "properties": "x"}, "system:a"))
    run("replay", broken, "--against", only).says(3, err="1 questions were not answered")


CLAIMS = """
version: 1
iam: {api: embedded}
identity: {jwt: {issuer: https://a, audience: b, jwks_file: keys, claims: [role]}}
upstreams: {a: {url: http://127.0.0.1:1}}
routes: [{id: r, path: /r, upstream: a, authorize: ["read system:a"]}]
"""


def test_it_says_which_claims_a_log_without_properties_lacks(run: Run, folder: Path, policies: Any) -> None:
    (folder / "new.yaml").write_text(CLAIMS)
    (folder / "keys").write_text('{"keys": []}')
    (folder / "policies" / "access").mkdir(parents=True, exist_ok=True)
    (folder / "policies" / "access" / "a.cedar").write_text(MAY)
    bare = write(folder / "d", line("alice", "system:a"))
    said = "the log does not hold these claims, so questions are asked without them: role"
    run("replay", bare, "--against", "new.yaml").says(0, err=said)
    whole = write(folder / "e", line({"type": "identity", "id": "alice", "properties": {"role": "x"}}, "system:a"))
    assert said not in run("replay", whole, "--against", "new.yaml").err


def test_unknown_and_stale_answers_are_left_aside(run: Run, folder: Path, policies: Any) -> None:
    log = write(
        folder / "d",
        line("alice", "system:a", None, code="iam_timeout"),
        line("alice", "system:b", source="stale"),
        line("alice", "system:b", source="fail_open"),
        line("alice", "system:b", False, source="iam_shadow"),
    )
    ran = run("replay", log, "--against", policies(MAY_NOT), "--output", "json")
    assert (ran.code, json.loads(ran.out)) == (0, {"asked": 0, "changed": []})


def test_the_last_answer_counts(run: Run, folder: Path, policies: Any) -> None:
    log = write(folder / "d", line("bob", "system:a", False), line("bob", "system:a", True))
    run("replay", log, "--against", policies(MAY)).says(0, err="1 questions asked")


def test_a_cut_off_line_is_tolerated_and_told(run: Run, folder: Path, policies: Any) -> None:
    log = write(folder / "d", line("bob", "system:a"), end='{"time":"2026-04-13T')
    run("replay", log, "--against", policies(MAY)).says(0, err="1 broken lines were passed over")


@pytest.mark.parametrize(
    "hidden",
    [
        line({"type": "identity", "id": "hmac-sha256:" + "0" * 32}, "system:a"),
        line(None, "system:a"),
        line("alice", "tenant:hmac-sha256:" + "0" * 32),
    ],
)
def test_what_is_hashed_cannot_be_asked(run: Run, folder: Path, policies: Any, hidden: dict[str, Any]) -> None:
    log = write(folder / "d", hidden, line("bob", "system:a"))
    ran = run("replay", log, "--against", policies(MAY), "--output", "json")
    ran.says(3, err="1 questions could not be asked")
    assert json.loads(ran.out) == {"asked": 1, "changed": []}
    assert run("replay", log, "--against", policies(MAY_NOT)).code == 1


def test_what_cannot_be_read_is_2(run: Run, folder: Path, policies: Any) -> None:
    log = write(folder / "d", line("bob", "system:a"))
    run("replay", "nowhere", "--against", policies(MAY)).says(2, err="nowhere")
    run("replay", str(folder), "--against", policies(MAY)).says(2)
    run("replay", "routes.yaml", "--against", policies(MAY)).says(2, err="not a line of it")
    run("replay", log, "--against", "nowhere.yaml").says(2, err="nowhere.yaml")
    run("replay", log, "--against", policies("permit (")).says(2)
    run("replay", log).says(2, err="--against")
    assert run("replay", write(folder / "empty"), "--against", policies(MAY)).code == 0


async def test_an_iam_that_fails_for_good_is_given_up() -> None:
    pauses: list[float] = []

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)

    iam, questions = FakeIam(default=fault("iam_timeout")), LoggedQuestions()
    questions.gather(line("u", f"system:{number}") for number in range(5000))
    result = await replay(questions, iam, sleep=sleep)
    assert (result.asked, result.unanswered) == (0, 5000)
    assert len(pauses) == 3
    assert sum(map(len, iam.asked)) <= 4 * 400


async def test_a_question_that_fails_once_is_asked_again() -> None:
    async def sleep(_: float) -> None:
        iam.answers.clear()

    iam, questions = FakeIam(default=DENY, answers={"read system:7": fault("iam_timeout")}), LoggedQuestions()
    questions.gather(line("u", f"system:{number}") for number in range(10))
    result = await replay(questions, iam, sleep=sleep)
    assert (result.asked, result.changed, result.unanswered) == (10, 10, 0)


def test_memory_does_not_grow_with_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[LoggedQuestions.__module__], "_MOST_REMEMBERED", 1_000)

    def many(count: int) -> Iterator[dict[str, Any]]:
        return (line(f"u{number}", f"system:{number % 97}") for number in range(count))

    peaks = []
    for count in (6_000, 12_000):
        questions = LoggedQuestions()
        tracemalloc.start()
        questions.gather(many(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(questions) == count
        questions.close()
    assert peaks[1] < peaks[0] * 1.2
