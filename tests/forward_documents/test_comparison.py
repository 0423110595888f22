"""Comparison: JSON values, pairwise, in the order of the systems."""

from __future__ import annotations

import json
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from gateway.forward.aggregate import Comparer, same
from gateway.forward.json_text import ABSENT, look_up, parse
from gateway.model.route import Comparison

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 1.0, 2.5]) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
)


def canonical(value):
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, int | float):
        return repr(float(value))
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return "{" + ",".join(f"{key}:{canonical(value[key])}" for key in sorted(value)) + "}"


@given(JSON, JSON)
def test_same_means_the_same_json_value(one, other):
    assert same(one, other) is (canonical(one) == canonical(other))
    assert same(one, one)


@given(st.dictionaries(st.sampled_from("ABCD"), JSON))
def test_every_pair_that_differs_is_told_once_in_order(found):
    comparer = Comparer([Comparison(field="f", severity="low", values=dict.fromkeys("DCBA", "/v"))], "ABCD")
    told = comparer.discrepancies({name: {"v": value} for name, value in found.items()})
    pairs = [(one["system_a"], one["system_b"]) for one in told]
    assert pairs == [
        (a, b) for a, b in combinations("ABCD", 2) if {a, b} <= found.keys() and not same(found[a], found[b])
    ]


def test_what_a_system_does_not_say_is_null():
    comparer = Comparer([Comparison(field="f", severity="low", values={"A": "/x/0", "B": "/y"})], "AB")
    assert comparer.discrepancies({"A": {"x": [None]}, "B": {}}) == []
    assert comparer.discrepancies({"A": {"x": []}, "B": {"y": 1}})[0]["value_a"] is None
    assert comparer.discrepancies({"A": 7}) == []


def test_pointers_follow_rfc_6901():
    document = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "m~n": 8, " ": 7, "*": 9, "-": {"01": 2}}
    cases = {"": document, "/foo/0": "bar", "/": 0, "/a~1b": 1, "/m~0n": 8, "/ ": 7, "/*": 9, "/-/01": 2}
    assert all(look_up(document, parse(text)) == value for text, value in cases.items())
    absent = [
        "/foo/2",
        "/foo/-",
        "/foo/01",
        "/foo/+1",
        "/foo/\N{FULLWIDTH DIGIT ONE}",
        "/foo/99999999999",
        "/x",
        "/foo/0/0",
    ]
    assert all(look_up(document, parse(text)) is ABSENT for text in absent)
