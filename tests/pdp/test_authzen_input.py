"""Whatever is sent to the decision point, the answer is an answer: 200 or a problem, never a 500."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pdp.authzen import EVALUATION, EVALUATIONS, MAX_BODY, MAX_EVALUATIONS, describe
from tests.support.properties import examples

JSON = {"content-type": "application/json"}
READ = {
    "subject": {"type": "user", "id": "alice"},
    "action": {"name": "read"},
    "resource": {"type": "record", "id": "record-1"},
}


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "application/jsonx"],
)
async def test_another_content_type_is_400(certified: httpx.AsyncClient, content_type: str):
    response = await certified.post(EVALUATION, content=json.dumps(READ), headers={"content-type": content_type})
    assert response.status_code == 400


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON ; charset=UTF-8"])
async def test_json_by_any_spelling_is_read(certified: httpx.AsyncClient, content_type: str):
    response = await certified.post(EVALUATION, content=json.dumps(READ), headers={"content-type": content_type})
    assert response.json() == {"decision": True}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xef\xbb\xbf{}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"subject": {"type": "\xff"}}',
        b'{"subject": {}, "subject": {}}',
        b'{"subject": {"type": "user", "id": "\\ud800"}}',
        b'{"subject": {"type": "user", "id": "alice"}} {}',
        b'{"context": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"context": {"n": ' + b"9" * 10_000 + b"}}",
    ],
    ids=lambda body: repr(body[:40]),
)
@pytest.mark.parametrize("path", [EVALUATION, EVALUATIONS])
async def test_a_body_that_is_no_strict_json_object_is_400(certified: httpx.AsyncClient, path: str, body: bytes):
    response = await certified.post(path, content=body, headers=JSON)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"


async def test_a_body_over_the_limit_is_413(certified: httpx.AsyncClient):
    response = await certified.post(EVALUATION, content=b" " * (MAX_BODY + 1), headers=JSON)
    assert response.status_code == 413
    fits = json.dumps(READ).encode()
    response = await certified.post(EVALUATION, content=fits + b" " * (MAX_BODY - len(fits)), headers=JSON)
    assert response.json() == {"decision": True}


async def test_more_evaluations_than_the_limit_are_413(certified: httpx.AsyncClient):
    for count, status in ((MAX_EVALUATIONS, 200), (MAX_EVALUATIONS + 1, 413)):
        response = await certified.post(EVALUATIONS, json={**READ, "evaluations": [{}] * count})
        assert response.status_code == status


@pytest.mark.parametrize("path", ["/", "/access/v1/evaluation/", "/access/v1", "/access/v1/search", "/-/fault"])
async def test_an_unknown_path_is_404(certified: httpx.AsyncClient, path: str):
    assert (await certified.post(path, json=READ)).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", EVALUATION, "POST"),
        ("DELETE", EVALUATIONS, "POST"),
        ("POST", "/.well-known/authzen-configuration", "GET, HEAD"),
    ],
)
async def test_another_method_is_405_with_allow(certified: httpx.AsyncClient, method: str, path: str, allow: str):
    response = await certified.request(method, path)
    assert response.status_code == 405
    assert sorted(response.headers["allow"].split(", ")) == sorted(allow.split(", "))


@pytest.mark.parametrize("path", [EVALUATION, "/nowhere"])
async def test_the_request_id_is_echoed_on_every_answer(certified: httpx.AsyncClient, path: str):
    for body in (json.dumps(READ), "{"):
        response = await certified.post(path, content=body, headers={**JSON, "X-Request-ID": "a-1"})
        assert response.headers["x-request-id"] == "a-1"
    assert "x-request-id" not in (await certified.post(path, content="{}", headers=JSON)).headers


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "id", "name", "properties", "__entity", "__extn"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
evaluation = st.dictionaries(st.sampled_from(["subject", "action", "resource", "context", "x"]), values, max_size=5)
near_misses = st.fixed_dictionaries(
    {
        "subject": st.fixed_dictionaries({"type": st.text(), "id": st.text()}, optional={"properties": values}),
        "action": st.fixed_dictionaries({"name": st.text()}, optional={"properties": values}),
        "resource": st.fixed_dictionaries(
            {"type": st.just("record"), "id": st.text()}, optional={"properties": values}
        ),
    },
    optional={"context": values},
)


@examples(60)
@given(items=st.lists(evaluation | near_misses | values, max_size=4), top=evaluation)
async def test_no_input_breaks_the_server_or_permits_a_stranger(
    certified: httpx.AsyncClient, items: list[Any], top: dict[str, Any]
):
    """Any JSON: one answer per item, each a boolean, and none a permit (the generated subjects are nobody)."""
    for document in ({**top, "evaluations": items}, {"evaluations": items}, top):
        response = await certified.post(EVALUATIONS, content=json.dumps(document), headers=JSON)
        assert response.status_code in (200, 400)
        answers = response.json().get("evaluations", [])
        assert all(answer["decision"] is False for answer in answers)
        if response.status_code == 200 and document.get("evaluations"):
            assert len(answers) == len(items)


def test_a_described_question_holds_no_token_and_no_line_break():
    token = {**READ, "subject": {"type": "token", "id": "s3cret"}}
    assert describe(token) == 'Token "read" Record::"record-1"'
    assert describe({**READ, "action": {"name": "a\nb"}}) == 'User::"alice" "a\\nb" Record::"record-1"'
    assert describe(5) == describe({}) == "(malformed question)"
