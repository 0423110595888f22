"""Tables of cases: what they say, what is wrong with them, and what running them shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.pdp.cases import load_cases, run_cases
from gateway.pdp.problem import PolicyError, Problem

MakeFolder = Callable[..., Path]
POLICY = "permit(principal, action, resource);"
FINE = '[[case]]\nwhy = "w"\nsubject = "alice"\ncheck = "read system:inventory"\nallow = true\n'


def mistakes(folder: Path) -> list[str]:
    problems: list[Problem] = []
    load_cases(folder, problems)
    return [str(problem).removeprefix(f"{folder}/") for problem in problems]


def with_key(key: str, value: str) -> str:
    """The fine case with one key replaced."""
    return "".join(f"{key} = {value}\n" if line.startswith(key) else f"{line}\n" for line in FINE.splitlines())


def test_subjects_and_checks_are_combined(folder: MakeFolder):
    text = (
        '[[case]]\nwhy = "w"\nsubject = ["a", {type = "token", id = "t", properties = {n = 1}}]\n'
        'check = ["read system:x:y z", {action = {name = "go"}, resource = {type = "r", id = "i"}, '
        "context = {c = 1}}]\n"
        "allow = false\n"
    )
    (file,) = load_cases(folder(c__cases__toml=text), problems := [])
    assert problems == []
    assert [case.asks for case in file.cases] == [
        "a read system:x:y z",
        "a go r:i in a context",
        'token:t {"n": 1} read system:x:y z',
        'token:t {"n": 1} go r:i in a context',
    ]
    assert file.cases[0].document == {
        "subject": {"type": "identity", "id": "a"},
        "action": {"name": "read"},
        "resource": {"type": "system", "id": "x:y z"},
    }
    assert file.cases[3].document["context"] == {"c": 1}
    assert not any(case.allow for case in file.cases)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = [", "1:6: error[toml-syntax]: invalid value"),
        ("[[case]\n", "1:7: error[toml-syntax]: expected ']]' at the end of an array declaration"),
        ("", "1:1: error[case-shape]: there is no [[case]] in this file"),
        ("case = 1", "1:1: error[case-shape]: there is no [[case]] in this file"),
        ("case = [1]", "1:1: error[case-shape]: a case is a table"),
        (FINE + "\n[[cases]]\nx = 1", "7:1: error[unknown-key]: unknown key 'cases'; did you mean 'case'?"),
        (FINE + "alow = true", "6:1: error[unknown-key]: unknown key 'alow'; did you mean 'allow'?"),
        (FINE + FINE.replace("allow = true\n", ""), "6:1: error[missing-key]: the case has no 'allow'"),
        (FINE + "\n" + with_key("allow", '"yes"'), "11:1: error[case-shape]: 'allow' is true or false"),
        (with_key("why", "1"), "2:1: error[case-shape]: 'why' is text"),
        (with_key("subject", "1"), "3:1: error[case-shape]: a subject is an id or a table"),
        (
            with_key("subject", '{typ = "x", id = "y"}'),
            "3:1: error[unknown-key]: unknown key 'typ'; did you mean 'type'?",
        ),
        (with_key("check", '"read"'), "4:1: error[case-check]: 'read' is not \"<action> <type>:<id>\""),
        (with_key("check", '["read system:x", "read system:"]'), "4:1: error[case-check]: 'read system:'"),
        (with_key("check", "1"), "4:1: error[case-shape]: a check is a text or a table"),
        (with_key("check", '{actio = {name = "x"}}'), "4:1: error[unknown-key]: unknown key 'actio'; did you mean"),
    ],
)
def test_mistakes_in_cases(folder: MakeFolder, text: str, expected: str):
    (line, *_) = mistakes(folder(c__cases__toml=text))
    assert line.startswith(f"c.cases.toml:{expected}")


def test_a_folder_without_cases_is_a_mistake(folder: MakeFolder):
    with pytest.raises(PolicyError, match=r"error\[no-cases\]"):
        run_cases(folder(POLICY))


def test_mistakes_of_policies_entities_and_cases_come_together(folder: MakeFolder):
    path = folder("permit(", "[{}]", c__cases__toml="x")
    with pytest.raises(PolicyError) as caught:
        run_cases(path)
    assert [problem.file.rpartition("/")[2] for problem in caught.value.problems] == [
        "c.cases.toml",
        "entities.json",
        "p.cedar",
    ]


def test_results_say_whether_they_are_what_the_case_demands(folder: MakeFolder):
    policies = (
        'permit(principal == Identity::"alice", action, resource);\n'
        "forbid(principal, action, resource) when { resource has broken && resource.broken };\n"
    )
    broken = '{action = {name = "read"}, resource = {type = "system", id = "x", properties = {broken = 5}}}'
    text = FINE + with_key("allow", "false") + with_key("check", broken) + with_key("check", '"read a/b:c"')
    (file,) = run_cases(folder(policies, c__cases__toml=text + with_key("check", broken).replace("true", "false")))
    assert [(result.outcome, result.passed) for result in file.results] == [
        ("allow", True),
        ("allow", False),
        ("unknown", False),
        ("unknown", False),
        ("unknown", False),
    ]
    assert "p.cedar:2:1" in file.results[2].verdict.reason
    assert file.results[1].case.place.endswith("c.cases.toml:6:1")
