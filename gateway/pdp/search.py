"""AuthZEN's searches over an EmbeddedDecisionPoint (Authorization API 1.0, section 8): who, on what, and which actions.

Rules: candidates are the entities of entities.json and those that policies name, in the order of their ids; each is
evaluated like any other question, so whatever is found is permitted when it is asked. An `id` (or an `action`) of what
is searched for is ignored. A page ends after `page.limit` results, or after MAX_CANDIDATES looks: `next_token` then
says where the next one begins, and is only good for the same search. Entities of the type of opaque tokens are never
found: their ids are secrets.
What is in neither place is not found, though a policy for a whole type may permit it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.pdp.point import CHUNK, EmbeddedDecisionPoint
from gateway.pdp.question import OPAQUE_TYPE, Malformed, read_question, type_name
from gateway.pdp.wire import BadRequest

PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1000
MAX_CANDIDATES: Final = 1000
_ACTION: Final = "Action"
_ANY_ID: Final = "any"
_NOT_OURS: Final = "page.token is not of this search."
Candidate = Callable[[str], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Page:
    """What is asked for of one page. `after` is the id before its first candidate; None begins at the start."""

    limit: int
    after: str | None
    search: str


async def search_subjects(point: EmbeddedDecisionPoint, document: Mapping[str, Any]) -> dict[str, Any]:
    """Subjects of `subject.type` that may do `action` on `resource`. Raises BadRequest."""
    return await _search_entities(point, document, "subject")


async def search_resources(point: EmbeddedDecisionPoint, document: Mapping[str, Any]) -> dict[str, Any]:
    """Resources of `resource.type` on which `subject` may do `action`. Raises BadRequest."""
    return await _search_entities(point, document, "resource")


async def search_actions(point: EmbeddedDecisionPoint, document: Mapping[str, Any]) -> dict[str, Any]:
    """Names of actions that `subject` may do on `resource`. Raises BadRequest."""
    question = {name: value for name, value in document.items() if name != "action"}
    return await _pages(
        point, question, {"action": "name"}, _ACTION, lambda name: {**question, "action": {"name": name}}
    )


async def _search_entities(point: EmbeddedDecisionPoint, document: Mapping[str, Any], what: str) -> dict[str, Any]:
    wanted = document.get(what)
    if not isinstance(wanted, Mapping):
        raise BadRequest(f"{what} is no object.")
    searched = {name: value for name, value in wanted.items() if name != "id"}
    question = {**document, what: searched}
    return await _pages(
        point, question, {what: "id"}, str(searched.get("type")), lambda entity_id: _with_id(question, what, entity_id)
    )


def _with_id(question: Mapping[str, Any], what: str, entity_id: str) -> dict[str, Any]:
    return {**question, what: {**question[what], "id": entity_id}}


async def _pages(
    point: EmbeddedDecisionPoint, question: Mapping[str, Any], searched: Mapping[str, str], kind: str, ask: Candidate
) -> dict[str, Any]:
    """One page of what is permitted. `searched`: the member that is searched for, and what differs in its results."""
    page = _page(question, f"{[*searched]} {_asked(ask(_ANY_ID))}")
    ((what, differs),) = searched.items()
    ids = _candidates(point, kind)
    start = 0 if page.after is None else bisect_right(ids, page.after)
    found, last = await _permitted(point, ids[start : start + MAX_CANDIDATES], page.limit, ask)
    result = {} if what == "action" else {"type": kind}
    more = start + last < len(ids)
    after = ids[start + last - 1] if last else page.after
    return {
        "results": [{**result, differs: each} for each in found],
        "page": {"next_token": _token(page.search, after) if more else "", "count": len(found)},
    }


def _asked(question: Mapping[str, Any]) -> str:
    """All that a verdict depends on, as text."""
    try:
        asked = read_question(question)
    except Malformed as error:
        raise BadRequest(f"{str(error)[0].upper()}{str(error)[1:]}.") from None
    return json.dumps([asked.request, asked.attributes_text])


def _candidates(point: EmbeddedDecisionPoint, kind: str) -> tuple[str, ...]:
    cedar_type = type_name(kind)
    return () if cedar_type == OPAQUE_TYPE else point.ids_of(cedar_type)


async def _permitted(
    point: EmbeddedDecisionPoint, ids: tuple[str, ...], limit: int, ask: Candidate
) -> tuple[list[str], int]:
    """Up to `limit` of the ids that are permitted, and how many were looked at."""
    found: list[str] = []
    looked_at = 0
    while looked_at < len(ids) and len(found) < limit:
        chunk = ids[looked_at : looked_at + CHUNK]
        for entity_id, verdict in zip(chunk, point.evaluate_all([ask(each) for each in chunk]), strict=True):
            if len(found) == limit:
                break
            looked_at += 1
            if verdict.allowed:
                found.append(entity_id)
        await asyncio.sleep(0)
    return found, looked_at


def _page(question: Mapping[str, Any], search: str) -> _Page:
    wanted = question.get("page", {})
    if not isinstance(wanted, dict):
        raise BadRequest("page is not an object.")
    limit = wanted.get("limit", PAGE_SIZE)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise BadRequest("page.limit is not a whole number of 1 or more.")
    token = wanted.get("token", "")
    if not isinstance(token, str):
        raise BadRequest(_NOT_OURS)
    digest = hashlib.sha256(search.encode()).hexdigest()[:32]
    return _Page(min(limit, MAX_PAGE_SIZE), _after(token, digest) if token else None, digest)


def _token(search: str, after: str | None) -> str:
    return base64.urlsafe_b64encode(json.dumps([search, after]).encode()).decode().rstrip("=")


def _after(token: str, search: str) -> str:
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        of, after = json.loads(text)
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise BadRequest(_NOT_OURS) from None
    if of != search or not isinstance(after, str):
        raise BadRequest(_NOT_OURS)
    return after
