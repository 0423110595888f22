"""AuthZEN's searches: what is found is permitted when it is asked, nothing else is, and pages hold all of it once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pdp import search
from gateway.pdp.authzen import authzen_app
from gateway.pdp.point import EmbeddedDecisionPoint

ALICE = {"type": "user", "id": "alice"}
RECORD = {"type": "record", "id": "record-1"}
READ = {"name": "read"}


async def found(client: httpx.AsyncClient, what: str, **document: Any) -> list[Any]:
    """All results, over all pages."""
    results: list[Any] = []
    page: dict[str, Any] = document.pop("page", {})
    while True:
        reply = await client.post(f"/access/v1/search/{what}", json={**document, "page": page})
        assert reply.status_code == 200, reply.text
        answer = reply.json()
        assert answer["page"]["count"] == len(answer["results"])
        results += answer["results"]
        if not answer["page"]["next_token"]:
            return results
        page = {**page, "token": answer["page"]["next_token"]}


async def test_who_may(certified: httpx.AsyncClient):
    assert await found(certified, "subject", subject={"type": "user"}, action=READ, resource=RECORD) == [
        {"type": "user", "id": "alice"},
        {"type": "user", "id": "bob"},
    ]
    soft = {"name": "delete", "properties": {"soft": True}}
    named = {"type": "user", "id": "ignored"}
    assert await found(certified, "subject", subject=named, action=soft, resource=RECORD) == [ALICE]
    assert await found(certified, "subject", subject={"type": "robot"}, action=READ, resource=RECORD) == []


async def test_on_what(certified: httpx.AsyncClient):
    records = [{"type": "record", "id": "record-1"}, {"type": "record", "id": "record-2"}]
    assert await found(certified, "resource", subject=ALICE, action=READ, resource={"type": "record"}) == records
    nobody = {"type": "user", "id": "nobody"}
    assert await found(certified, "resource", subject=nobody, action=READ, resource={"type": "record"}) == []


async def test_which_actions(certified: httpx.AsyncClient):
    context = {"soft": True}
    assert await found(certified, "action", subject=ALICE, resource=RECORD) == [{"name": "read"}, {"name": "write"}]
    assert {"name": "delete"} in await found(certified, "action", subject=ALICE, resource=RECORD, context=context)
    ignored = await found(certified, "action", subject=ALICE, resource=RECORD, action="ignored")
    assert ignored == [{"name": "read"}, {"name": "write"}]


@pytest.mark.parametrize(
    ("what", "left_out"),
    [("subject", "resource"), ("subject", "action"), ("resource", "subject"), ("action", "subject")],
)
async def test_what_a_search_needs_is_asked_for(certified: httpx.AsyncClient, what: str, left_out: str):
    document = {"subject": ALICE, "action": READ, "resource": RECORD}
    del document[left_out]
    reply = await certified.post(f"/access/v1/search/{what}", json=document)
    assert (reply.status_code, reply.json()["detail"]) == (400, f"{left_out.capitalize()} is missing.")


@pytest.mark.parametrize("kind", [None, 7, "", "a/b", "Us er"])
async def test_a_type_that_is_none_is_400(certified: httpx.AsyncClient, kind: Any):
    reply = await certified.post(
        "/access/v1/search/subject", json={"subject": {"type": kind}, "action": READ, "resource": RECORD}
    )
    assert reply.status_code == 400


async def a_page(client: httpx.AsyncClient, page: Any, **other: Any) -> httpx.Response:
    document = {"subject": {"type": "user"}, "action": READ, "resource": RECORD, **other, "page": page}
    return await client.post("/access/v1/search/subject", json=document)


@pytest.mark.parametrize(
    "page", [[], 1, {"limit": 0}, {"limit": True}, {"limit": "1"}, {"token": 1}, {"token": "x"}, {"token": "e30"}]
)
async def test_a_page_that_is_none_is_400(certified: httpx.AsyncClient, page: Any):
    assert (await a_page(certified, page)).status_code == 400


async def test_a_token_is_good_for_its_own_search_only(certified: httpx.AsyncClient):
    token = (await a_page(certified, {"limit": 1})).json()["page"]["next_token"]
    assert (await a_page(certified, {"token": token})).json()["results"] == [{"type": "user", "id": "bob"}]
    assert (await a_page(certified, {"token": token}, action={"name": "write"})).status_code == 400
    assert (await a_page(certified, {"token": token}, resource={"type": "record", "id": "2"})).status_code == 400


def client_of(point: EmbeddedDecisionPoint) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(authzen_app(lambda: point)), base_url="http://pdp.example")


async def test_pages_hold_everybody_once(point: Callable[..., EmbeddedDecisionPoint], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(search, "MAX_CANDIDATES", 7)
    people = [{"uid": {"type": "User", "id": f"u{n:03}"}} for n in range(100)]
    loaded = point('permit(principal, action, resource) unless { principal == User::"u017" };', people)
    async with client_of(loaded) as client:
        for limit in (1, 16, 1000):
            ids = [
                each["id"]
                for each in await found(
                    client, "subject", subject={"type": "user"}, action=READ, resource=RECORD, page={"limit": limit}
                )
            ]
            assert ids == [f"u{n:03}" for n in range(100) if n != 17]


async def test_the_id_of_a_token_is_never_found(point: Callable[..., EmbeddedDecisionPoint]):
    loaded = point("permit(principal, action, resource);", [{"uid": {"type": "Token", "id": "s3cret"}}])
    async with client_of(loaded) as client:
        assert await found(client, "subject", subject={"type": "token"}, action=READ, resource=RECORD) == []


async def test_a_policy_that_cannot_be_evaluated_finds_nobody(point: Callable[..., EmbeddedDecisionPoint]):
    text = "permit(principal, action, resource);\nforbid(principal, action, resource) when { principal.locked };"
    people = [{"uid": {"type": "User", "id": "a"}, "attrs": {"locked": False}}, {"uid": {"type": "User", "id": "b"}}]
    async with client_of(point(text, people)) as client:
        assert await found(client, "subject", subject={"type": "user"}, action=READ, resource=RECORD) == [
            {"type": "user", "id": "a"}
        ]


def test_whatever_is_sent_as_a_token_is_read_or_refused():
    @given(st.text(max_size=60))
    def reads(token: str) -> None:
        with pytest.raises(search.BadRequest):
            search._after(token, "x")

    reads()
