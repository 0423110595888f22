"""Checks filled in: a value is one JSON string and nothing else, whatever is in it."""

from __future__ import annotations

import json
import time
import timeit
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.authorize.plan import plans_of
from gateway.checks import PreparedCheck, make_check
from gateway.errors import GatewayError
from gateway.model.route import Access, AccessKind, CheckTemplate
from gateway.template import _query_value, parse
from tests.support.properties import examples

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def document(check):
    return json.loads("{" + check.fragment + "}")


def test_methods_that_ask_the_same_share_what_was_prepared(kit):
    plans = plans_of(kit.route(Access(AccessKind.CHECKS, (kit.check("read system:inventory"),))))
    assert len(plans) > 1
    assert len({id(check) for plan in plans.values() for check in plan.checks}) == 1


def test_a_check_without_placeholders_is_filled_in_once(kit):
    prepared = PreparedCheck(kit.check("read system:inventory"))
    assert prepared.fill(None) is prepared.fill(None) is prepared.static
    assert prepared.static.fragment == '"action":{"name":"read"},"resource":{"id":"inventory","type":"system"}'


@given(TEXT)
def test_no_value_changes_the_shape(value):
    template = CheckTemplate(
        {"name": parse("{method}")},
        {"type": parse("x"), "id": parse("a{path.p}b"), "properties": {"n": 1, "l": [True, None, parse("{path.p}")]}},
        {"deep": {"b": parse("{query.q}"), "a": 1.5}},
        "source",
    )
    check = PreparedCheck(template).fill(lambda _: value)
    assert document(check) == {
        "action": {"name": value},
        "resource": {"type": "x", "id": f"a{value}b", "properties": {"n": 1, "l": [True, None, value]}},
        "context": {"deep": {"b": value, "a": 1.5}},
    }
    assert check == make_check(check.action, check.resource, check.context)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_the_order_of_members_makes_no_difference(members):
    resource = {"type": "t", "id": "i", **members}
    turned = dict(reversed(resource.items()))
    assert make_check({"name": "a"}, resource, None).fragment == make_check({"name": "a"}, turned, None).fragment


@given(st.tuples(JSON, JSON))
def test_different_values_have_different_fragments(pair):
    one, other = (make_check({"name": "a"}, {"type": "t", "id": "i"}, {"v": value}) for value in pair)
    same_json = json.dumps(pair[0], sort_keys=True) == json.dumps(pair[1], sort_keys=True)
    assert (one.fragment == other.fragment) is same_json


def test_numbers_that_json_does_not_have_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        make_check({"name": "a"}, {"type": "t", "id": "i"}, {"v": float("nan")})


async def test_a_missing_value_is_the_callers_mistake_and_reaches_nobody(bench, kit):
    """DG03: what a client leaves out must not look like IAM's failure."""
    bench.iam.default = kit.fault()
    with pytest.raises(GatewayError) as refused:
        await bench.ask(kit.route(kit.checks("read doc:{query.id}")), kit.request(target=b"/inventory/7?id=1&id=2"))
    assert refused.value.code == "bad_request"
    assert bench.iam.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"x-tenant", b"")],
        [(b"x-tenant", b"\xff")],
        [(b"x-tenant", b"a"), (b"x-tenant", b"a")],
        [(b"x-tenant", b"a"), (b"x_tenant", b"b")],
        [(b"x.tenant", b"b"), (b"x-tenant", b"a")],
        [(b"x_tenant", b"a")],
        [(b"x-tenant", b"a"), (b"connection", b"close, X-Tenant")],
        [(b"connection", b"keep-alive"), (b"connection", b"x-tenant\t"), (b"x-tenant", b"a")],
    ],
)
async def test_a_header_field_that_the_upstream_may_read_differently_decides_nothing(bench, kit, headers):
    with pytest.raises(GatewayError) as refused:
        await bench.ask(kit.route(kit.checks("read tenant:{header.X-Tenant}")), kit.request(headers=headers))
    assert refused.value.code == "bad_request"
    assert bench.iam.asked == []


async def test_a_header_field_that_goes_on_as_it_is_fills_a_check(bench, kit):
    headers = [(b"connection", b"close, x-other"), (b"x-tenant", b"a"), (b"x-tenant-id", b"b")]
    await bench.ask(kit.route(kit.checks("read tenant:{header.X-Tenant}")), kit.request(headers=headers))
    assert bench.iam.asked[0][0].check.resource == {"type": "tenant", "id": "a"}


def read_as_a_form(query: bytes, name: str) -> str | None:
    """What a form decoder reads, parameter by parameter: the oracle."""
    pairs = [(unquote_to_bytes(key.replace(b"+", b" ")), value)
             for key, _, value in (pair.partition(b"=") for pair in query.split(b"&"))]  # fmt: skip
    values = [value for key, value in pairs if key == name.encode()]
    try:
        return (unquote_to_bytes(values[0].replace(b"+", b" ")).decode() or None) if len(values) == 1 else None
    except UnicodeDecodeError:
        return None


PARTS = [b"&", b"=", b"a", b"b", b"%61", b"%6", b"1", b"+", b"%20", b"%25", b"%", b"%c3%A9", b"%ff"]


@given(
    st.lists(st.sampled_from(PARTS), max_size=9).map(b"".join),
    st.sampled_from(["a", "ab", "a b", "é", "%", "a=", "a&b", "a+", "%6"]),
)
def test_a_query_is_read_as_a_form_is(query, name):
    assert _query_value(query, name) == read_as_a_form(query, name)


@pytest.mark.parametrize("piece", [b"&", b"%61&", b"a&", b"a", b"%", b"+"])
def test_the_cost_of_a_query_is_linear(piece):
    def fastest_s(size):
        query = piece * (size // len(piece))
        return min(timeit.repeat(lambda: _query_value(query, "aaab"), number=3, repeat=5, timer=time.process_time))

    # Ten times the size. A quadratic cost is a hundred times, in every try; a busy machine disturbs one or the other.
    assert any(fastest_s(80_000) < 40 * fastest_s(8000) for _ in range(5))


COLONS = st.text(st.sampled_from("a:b-"), min_size=1, max_size=6)
COMPOSITE = [
    "{path.a}:{path.b}",
    "x{path.a}::{path.b}:{path.c}y",
    "{path.a}aa{path.b}",
    "{path.a}:{route.id}:{path.b}",
    "{path.a}-:-{path.b}-{path.c}",
]


def question(text: str, values: dict[str, str]) -> str | None:
    """The question, or None if the values are refused."""
    template = CheckTemplate({"name": parse("read")}, {"type": parse("doc"), "id": parse(text)}, None, text)
    try:
        return PreparedCheck(template).fill(lambda placeholder: values.get(placeholder.name, ":a")).fragment
    except GatewayError:
        return None


@given(st.sampled_from(COMPOSITE), *(st.fixed_dictionaries(dict.fromkeys("abc", COLONS)) for _ in range(2)))
@examples(400)
@example("{path.a}:{path.b}", {"a": "x:y", "b": "z", "c": "a"}, {"a": "x", "b": "y:z", "c": "a"})
@example("{path.a}aa{path.b}", {"a": "xa", "b": "b", "c": "a"}, {"a": "x", "b": "ab", "c": "a"})
def test_different_values_make_different_questions(text, one, other):
    used = [name for name in "abc" if f"path.{name}" in text]
    first, second = question(text, one), question(text, other)
    if first is not None and first == second:
        assert [one[name] for name in used] == [other[name] for name in used]


def test_values_without_what_stands_between_them_are_never_refused():
    assert question("{path.a}:{path.b}", {"a": "x-y", "b": "y:z:"}) is not None
    assert question("{path.a}:{path.b}", {"a": "x:", "b": "y"}) is None
    assert question("{path.a}", {"a": "x:y"}) is not None


def test_a_type_that_is_filled_in_holds_no_colon():
    template = CheckTemplate({"name": parse("read")}, {"type": parse("{path.t}"), "id": parse("1")}, None, "")
    assert PreparedCheck(template).fill(lambda _: "system").resource["type"] == "system"
    with pytest.raises(GatewayError):
        PreparedCheck(template).fill(lambda _: "system:a")
