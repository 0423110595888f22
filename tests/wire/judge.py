"""What a case expects, and the six invariants that hold for every case."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from tests.wire.client import Conversation
from tests.wire.sentinel import Arrived, Sentinel

PERMITTED = {"allow", "inv"}


def faults(case: dict[str, Any], talk: Conversation, sentinel: Sentinel, added: set[str]) -> list[str]:
    """Everything that is wrong, in words; empty if nothing is."""
    expect, arrived = case["expect"], sentinel.requests
    return [
        *_responses(expect, talk),
        *_counts(expect, arrived),
        *_headers(expect, arrived, added),
        *_ending(expect, talk),
        *_invariants(talk, sentinel),
    ]


def _responses(expect: dict[str, Any], talk: Conversation) -> Iterator[str]:
    status = talk.finals[0].status if talk.finals else None
    silent_is_fine = status is None and ((expect.get("or_close") and talk.closed) or expect.get("or_no_answer"))
    if "status_any_of" in expect and status not in expect["status_any_of"] and not silent_is_fine:
        yield f"status {status}, expected one of {expect['status_any_of']}"
    yield from _sequence(expect.get("responses_statuses", []), talk)
    least, most = expect.get("responses_min", 0), expect.get("responses_max", 99)
    if "final_responses" in expect:
        least = most = expect["final_responses"]
    if not least <= len(talk.finals) <= most:
        yield f"{len(talk.finals)} final responses"
    if expect.get("must_not_send_101") and 101 in talk.interim:
        yield "101 sent"
    for first in talk.finals[:1]:
        if expect.get("response_body_empty") and first.body:
            yield "a body on HEAD"
        if expect.get("response_must_not_be_chunked") and first.value("transfer-encoding"):
            yield "chunked to an HTTP/1.0 client"


def _sequence(statuses: list[list[int]], talk: Conversation) -> Iterator[str]:
    for index, allowed in enumerate(statuses):
        if index >= len(talk.finals):
            if index == 0 or not talk.closed:
                yield f"response {index} is missing"
            return
        if talk.finals[index].status not in allowed or not talk.finals[index].complete:
            yield f"response {index} is {talk.finals[index].status}, complete {talk.finals[index].complete}"


def _counts(expect: dict[str, Any], arrived: list[Arrived]) -> Iterator[str]:
    targets = [request.target for request in arrived]
    if expect.get("must_not_reach_upstream") and arrived:
        yield f"reached the upstream: {targets}"
    if "upstream_requests" in expect and len(arrived) != expect["upstream_requests"]:
        yield f"upstream saw {targets}"
    if len(arrived) > expect.get("upstream_requests_max", 99):
        yield f"upstream saw {targets}"
    if arrived and "upstream_target_any_of" in expect and targets[0] not in expect["upstream_target_any_of"]:
        yield f"upstream target {targets[0]!r}"
    if arrived and "upstream_method_any_of" in expect and arrived[0].method not in expect["upstream_method_any_of"]:
        yield f"upstream method {arrived[0].method!r}"
    body = expect.get("upstream_body_hex")
    if arrived and body is not None and (not arrived[0].complete or arrived[0].body.hex() != body):
        yield f"upstream body {arrived[0].body[:40]!r}"
    if expect.get("upstream_must_not_be_complete") and any(request.complete for request in arrived):
        yield "the upstream saw a complete request"


def _headers(expect: dict[str, Any], arrived: list[Arrived], added: set[str]) -> Iterator[str]:
    for request in arrived:
        yield from _unwanted(expect, request)
    for request in arrived[:1]:
        yield from _wanted(expect, request, added)
    if len(arrived) > 1:
        for name in expect.get("upstream_last_must_not_have_headers", []):
            if arrived[-1].values(name):
                yield f"the second request carries {name}"


def _unwanted(expect: dict[str, Any], request: Arrived) -> Iterator[str]:
    for name in expect.get("upstream_must_not_have_headers", []):
        if request.values(name):
            yield f"upstream has {name}"
    unwanted = expect.get("upstream_must_not_have_header_value")
    if unwanted and any(unwanted in value for name, value in request.headers if name != "tracestate"):
        yield f"upstream has a header with {unwanted!r}"


def _wanted(expect: dict[str, Any], request: Arrived, added: set[str]) -> Iterator[str]:
    names = {name for name, _ in request.headers}
    lost = set(expect.get("upstream_must_have_headers_if_reached", [])) - names
    if "same_added_headers_as" in expect:
        lost |= added - names
    if lost:
        yield f"upstream lost {lost}"
    for name, values in expect.get("upstream_header_values", {}).items():
        if [part.strip() for part in ",".join(request.values(name)).split(",")] != values:
            yield f"upstream {name} is {request.values(name)}"
    for name, parts in expect.get("upstream_header_contains", {}).items():
        if any(part not in "; ".join(request.values(name)) for part in parts):
            yield f"upstream {name} is {request.values(name)}"


def _ending(expect: dict[str, Any], talk: Conversation) -> Iterator[str]:
    if expect.get("close_after") and talk.finals and not talk.closed:
        yield "the connection is still open"
    if "must_close_within_s" in expect and not talk.closed:
        yield "the connection is still open"
    if "max_seconds" in expect and not talk.finals and not talk.closed:
        yield f"neither an answer nor the end within {expect['max_seconds']} s"


def _invariants(talk: Conversation, sentinel: Sentinel) -> Iterator[str]:
    for request in sentinel.requests:
        tokens = request.values("authorization")
        public = request.target.startswith("/open/")
        if not public and (len(tokens) != 1 or tokens[0].split(" ")[-1] not in PERMITTED):
            yield f"G1 upstream saw authorization {tokens}"
        target = most_generous_reading(request.target)
        inside = target == b"/inventory" or target.startswith(b"/inventory/")
        if not inside and not (target.startswith(b"/monitoring/") and tokens == ["Bearer allow"]) and not public:
            yield f"G2 upstream target {request.target!r}"
        if request.values("x-smuggled"):
            yield "G4 a smuggled request"
    yield from (f"G3 {violation}" for violation in sentinel.violations)
    if b"Traceback" in talk.data or any(response.status == 500 for response in talk.finals):
        yield "G5 an internal error"
    yield from (f"G6 {problem}" for problem in talk.problems)


def most_generous_reading(target: str) -> bytes:
    """A target as the most careless server would read it."""
    path = target.encode("latin-1").split(b"?")[0].split(b"#")[0]
    for _ in range(3):
        path = unquote_to_bytes(path)
    path = path.replace(b"\\", b"/").replace(b"\xef\xbc\x8f", b"/").replace(b"\xc0\xaf", b"/").split(b"\x00")[0]
    path = re.sub(rb"[\t\r\n]", b"", path)
    kept: list[bytes] = []
    for segment in re.sub(rb"/+", b"/", path).split(b"/"):
        bare = segment.split(b";")[0]
        if bare == b"..":
            if not kept:
                return b"ESCAPE"
            kept.pop()
        elif bare not in (b".", b""):
            kept.append(bare)
    return (b"/" + b"/".join(kept)).lower()
