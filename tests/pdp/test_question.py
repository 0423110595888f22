"""AuthZEN's words become Cedar's, and a caller's data stays data."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pdp.point import EmbeddedDecisionPoint
from gateway.pdp.question import Malformed, Uid, read_question, type_name
from tests.support.properties import examples

READ = {
    "subject": {"type": "identity", "id": "alice"},
    "action": {"name": "read"},
    "resource": {"type": "system", "id": "inventory"},
}


@pytest.mark.parametrize(
    ("authzen", "cedar"),
    [
        ("identity", "Identity"),
        ("token", "Token"),
        ("todoItem", "TodoItem"),
        ("audit_log", "AuditLog"),
        ("audit-log", "AuditLog"),
        ("audit.log", "AuditLog"),
        ("HTTP", "HTTP"),
        ("hr::employee", "Hr::Employee"),
        ("x2", "X2"),
    ],
)
def test_types_are_capitalised(authzen: str, cedar: str):
    assert type_name(authzen) == cedar


@pytest.mark.parametrize("text", ["", "a b", "2fa", "ünï", "a::", "::a", "-", 'a"', "a\n", "a;", "a/b"])
def test_what_cannot_name_a_type_is_malformed(text: str):
    with pytest.raises(Malformed, match=r"subject\.type"):
        read_question({**READ, "subject": {"type": text, "id": "x"}})


def test_the_plain_question():
    asked = read_question(READ)
    assert asked.request == {
        "principal": {"type": "Identity", "id": "alice"},
        "action": {"type": "Action", "id": "read"},
        "resource": {"type": "System", "id": "inventory"},
        "context": "{}",
    }
    assert not asked.attributes


def test_properties_become_attributes_and_context():
    asked = read_question(
        {
            "subject": {**READ["subject"], "properties": {"roles": ["a"]}},
            "action": {"name": "read", "properties": {"soft": True}},
            "resource": {**READ["resource"], "properties": {"n": 1, "none": None}},
            "context": {"soft": False, "ip": "::1"},
        }
    )
    assert asked.attributes == {Uid("Identity", "alice"): {"roles": ["a"]}, Uid("System", "inventory"): {"n": 1}}
    assert json.loads(asked.context) == {"soft": True, "ip": "::1"}


def test_one_entity_as_subject_and_resource_has_the_properties_of_both():
    me = {"type": "identity", "id": "alice"}
    asked = read_question(
        {**READ, "subject": {**me, "properties": {"a": 1, "b": 1}}, "resource": {**me, "properties": {"b": 2}}}
    )
    assert asked.attributes == {Uid("Identity", "alice"): {"a": 1, "b": 2}}


@pytest.mark.parametrize(
    ("value", "cedar"),
    [
        (1.5, {"__extn": {"fn": "decimal", "arg": "1.5"}}),
        (-0.25, {"__extn": {"fn": "decimal", "arg": "-0.25"}}),
        (5.0, 5),
        (2**63 - 1, 2**63 - 1),
        ([1, [True, "x"]], [1, [True, "x"]]),
        ({"a": {"b": None}}, {"a": {}}),
    ],
)
def test_values_in_cedars_json(value: Any, cedar: Any):
    asked = read_question({**READ, "context": {"v": value}})
    assert json.loads(asked.context) == {"v": cedar}


@pytest.mark.parametrize(
    "value",
    [
        1.23456,
        1e300,
        1e-9,
        2**63,
        float("nan"),
        float("inf"),
        [None],
        "\ud800",
        {"\ud800": 1},
        {"__entity": {"type": "Role", "id": "operator"}},
        {"a": [{"__extn": {"fn": "ip", "arg": "x"}}]},
        {"__expr": "1"},
        object(),
    ],
)
@pytest.mark.parametrize("where", ["context", "subject", "action", "resource"])
def test_values_that_cedar_cannot_hold_are_malformed(value: Any, where: str):
    holder: dict[str, Any] = {"v": value}
    question = (
        {**READ, "context": holder}
        if where == "context"
        else {
            **READ,
            where: {**READ[where], "properties": holder},
        }
    )
    with pytest.raises(Malformed, match=where):
        read_question(question)


def test_deep_nesting_is_malformed_not_a_crash():
    deep: Any = 1
    for _ in range(200):
        deep = [{"a": deep}]
    with pytest.raises(Malformed, match="nested"):
        read_question({**READ, "context": {"v": deep}})


POLICIES = """
permit(principal == Identity::"alice", action == Action::"read", resource == System::"inventory");
permit(principal == Identity::"q\\"uote\\\\", action, resource);
"""


@examples(200)
@given(subject=st.text(min_size=1), action=st.text(min_size=1), resource=st.text(min_size=1))
def test_ids_are_compared_exactly_whatever_they_hold(
    point: Callable[..., EmbeddedDecisionPoint], subject: str, action: str, resource: str
):
    """No id, with quotes, escapes, line breaks or policy text in it, is taken for another one."""
    loaded = point(POLICIES)
    question = {
        "subject": {"type": "identity", "id": subject},
        "action": {"name": action},
        "resource": {"type": "system", "id": resource},
    }
    assert loaded.evaluate(question).allowed is (
        (subject, action, resource) == ("alice", "read", "inventory") or subject == 'q"uote\\'
    )


@pytest.mark.parametrize(
    "subject", ['alice"', 'alice" || true || "', "alice\n", " alice", "Alice", 'Identity::"alice"', "alice\x00", "*"]
)
def test_near_misses_of_a_permitted_id_are_denied(point: Callable[..., EmbeddedDecisionPoint], subject: str):
    loaded = point(POLICIES)
    assert loaded.evaluate(READ).allowed
    assert not loaded.evaluate({**READ, "subject": {"type": "identity", "id": subject}}).allowed


def test_an_id_with_escapes_is_matched_as_it_is(point: Callable[..., EmbeddedDecisionPoint]):
    question = {**READ, "subject": {"type": "identity", "id": 'q"uote\\'}}
    assert point(POLICIES).evaluate(question).allowed
