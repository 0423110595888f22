"""What IAM can do with one call, and what that is: a permit, a denial, a failure of its own, or a refused question.

`@ALLOW@` of a script is the well-formed reply that permits everything that was asked.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.faults.actors import Fault, Seen, evaluations, plays, reply

DRIP_S = 0.15


@dataclass(frozen=True)
class IamFault:
    """`becomes`: permit, deny, or the code. `counts`: a failure for the breaker. `slow`: takes IAM's whole time.

    `degrades`: whether a degrade rule may answer it. `asks_for_s`: IAM's own `Retry-After`.
    """

    name: str
    fault: Fault
    becomes: str
    counts: bool = True
    degrades: bool = True
    slow: bool = False
    asks_for_s: int = 1


def permit(seen: Seen) -> Any:
    return {"evaluations": [{"decision": True} for _ in evaluations(seen)]}


def allow(seen: Seen) -> bytes:
    return json.dumps(permit(seen)).encode()


def body(make: Callable[[bytes], bytes], *headers: str) -> Fault:
    """200 with what `make` does to the well-formed permit."""
    return Fault(lambda seen: [reply(make(allow(seen)), "200 OK", *headers)])


def status(line: str, *headers: str) -> Fault:
    """Another status, with the well-formed permit as its body."""
    return Fault(lambda seen: [reply(allow(seen), line, "Content-Type: application/json", *headers)])


def last(**members: Any) -> Fault:
    """Everything permitted, but the last item is this."""
    return Fault(
        lambda seen: [reply(json.dumps({"evaluations": [*permit(seen)["evaluations"][:-1], members]}).encode())]
    )


def items(**members: Any) -> Fault:
    """Every item is this."""
    return Fault(lambda seen: [reply(json.dumps({"evaluations": [members for _ in evaluations(seen)]}).encode())])


def _second_answer(seen: Seen) -> list[bytes]:
    """The denial that was asked for, and behind it a permit that nobody asked for."""
    denial = json.dumps({"evaluations": [{"decision": False} for _ in evaluations(seen)]}).encode()
    return [reply(denial) + reply(allow(seen))]


def _one_less(seen: Seen) -> list[bytes]:
    return [reply(json.dumps({"evaluations": permit(seen)["evaluations"][1:]}).encode())]


INVALID = "iam_invalid_response"
OK = b"HTTP/1.1 200 OK\r\n"
_ERROR = {"error": {"status": 503, "message": "overloaded"}}

FAULTS = [
    IamFault("a permit", body(lambda good: good), "permit", counts=False),
    IamFault("a permit that says no-store", body(lambda good: good, "Cache-Control: no-store"), "permit", counts=False),
    IamFault(
        "a permit for ten years", body(lambda good: good, "Cache-Control: max-age=315360000"), "permit", counts=False
    ),
    IamFault("a permit with a cookie", body(lambda good: good, "Set-Cookie: iam=1"), "permit", counts=False),
    IamFault("a permit, then FIN", replace(body(lambda good: good), end="fin"), "permit", counts=False),
    IamFault("a permit, then RST", replace(body(lambda good: good), end="rst"), "permit", counts=False),
    IamFault("a denial", items(decision=False), "deny", counts=False),
    IamFault("one denial among permits", last(decision=False), "deny", counts=False),
    IamFault(
        "a denial with a reason that is an error",
        items(decision=False, context={"error": {"status": 404}}),
        "deny",
        counts=False,
    ),
    IamFault("a denial, and a second answer behind it", Fault(_second_answer), "deny", counts=False),
    # Not what was asked for
    IamFault("an empty body", plays(reply()), INVALID),
    IamFault("null", plays(reply(b"null")), INVALID),
    IamFault("an empty list", plays(reply(b"[]")), INVALID),
    IamFault("no items", plays(reply(b'{"evaluations":[]}')), INVALID),
    IamFault("true", plays(reply(b"true")), INVALID),
    IamFault("a word", plays(reply(b'"allow"')), INVALID),
    IamFault("a page", plays(reply(b"<html>200</html>", "200 OK", "Content-Type: text/html")), INVALID),
    IamFault("garbage behind", body(lambda good: good + b"x"), INVALID),
    IamFault("two documents", body(lambda good: good + good), INVALID),
    IamFault("a document cut short", body(lambda good: good[:-2]), INVALID),
    IamFault("a byte order mark", body(lambda good: b"\xef\xbb\xbf" + good), INVALID),
    IamFault("UTF-16", body(lambda good: good.decode().encode("utf-16")), INVALID),
    IamFault("not Unicode", body(lambda good: good[:-1] + b',"x":"\xff"}'), INVALID),
    IamFault("NaN", body(lambda good: good[:-1] + b',"x":NaN}'), INVALID),
    IamFault("a key twice", body(lambda good: good[:-1] + b',"evaluations":[]}'), INVALID),
    IamFault("deep nesting", plays(reply(b'{"evaluations":' + b"[" * 100_000)), INVALID),
    IamFault("deep nesting that ends", plays(reply(b"[" * 100_000 + b"]" * 100_000)), INVALID),
    IamFault('"true"', last(decision="true"), INVALID),
    IamFault('"false"', last(decision="false"), INVALID),
    IamFault("1", last(decision=1), INVALID),
    IamFault("a null decision", last(decision=None), INVALID),
    IamFault("no decision", last(), INVALID),
    IamFault(
        "a decision twice",
        plays(reply(b'{"evaluations":[{"decision":false,"decision":true},{"decision":true}]}')),
        INVALID,
    ),
    IamFault("one item too many", body(lambda good: good[:-2] + b',{"decision":true}]}'), INVALID),
    IamFault("one item too few", Fault(_one_less), INVALID),
    IamFault("plain text said to be gzip", body(lambda good: good, "Content-Encoding: gzip"), INVALID),
    IamFault("gzip", body(gzip.compress, "Content-Encoding: gzip"), INVALID),
    IamFault("two megabytes", body(lambda good: good + b" " * 2_000_000), INVALID),
    IamFault("201", status("201 Created"), INVALID),
    IamFault("204", plays(b"HTTP/1.1 204 No Content\r\n\r\n"), INVALID),
    IamFault("a redirect", status("307 Temporary Redirect", "Location: http://127.0.0.1:9/"), INVALID),
    IamFault("404", status("404 Not Found"), INVALID),
    IamFault("405", status("405 Method Not Allowed"), INVALID),
    IamFault("HTTP/0.9", plays(b"garbage", end="fin"), INVALID),
    IamFault("two lengths", plays(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"), INVALID),
    # IAM's own failures
    IamFault("401", status("401 Unauthorized"), "iam_auth_error"),
    IamFault("403", status("403 Forbidden"), "iam_auth_error"),
    IamFault("408", status("408 Request Timeout"), "iam_error"),
    IamFault("429", status("429 Too Many Requests", "Retry-After: 7"), "iam_error", asks_for_s=7),
    IamFault("500", status("500 Internal Server Error"), "iam_error"),
    IamFault("502", status("502 Bad Gateway"), "iam_error"),
    IamFault("503", status("503 Service Unavailable", "Retry-After: 7"), "iam_error", asks_for_s=7),
    IamFault("FIN", plays(end="fin"), "iam_unreachable"),
    IamFault("RST", plays(end="rst"), "iam_unreachable"),
    IamFault("RST before the body was read", plays(end="rst", early=True), "iam_unreachable"),
    IamFault("half a head", plays(b"HTTP/1.1 200 OK\r\nX: ", end="fin"), "iam_unreachable"),
    IamFault("a body cut short", Fault(lambda seen: [reply(allow(seen), length=500)], "fin"), "iam_unreachable"),
    IamFault("silence", plays(end="hang"), "iam_timeout", slow=True),
    IamFault("silence in the head", plays(OK, end="hang"), "iam_timeout", slow=True),
    IamFault(
        "silence in the body", Fault(lambda seen: [reply(allow(seen), length=500)], "hang"), "iam_timeout", slow=True
    ),
    IamFault(
        "a body by drops",
        plays(OK + b"Content-Length: 1000\r\n\r\n", *[b" ", DRIP_S] * 8, end="hang"),
        "iam_timeout",
        slow=True,
    ),
    IamFault("a head by drops", plays(OK, *[b"X: a\r\n", DRIP_S] * 8, end="hang"), "iam_timeout", slow=True),
    IamFault(
        "endless early hints",
        plays(*[b"HTTP/1.1 103 Early Hints\r\n\r\n", DRIP_S] * 8, end="hang"),
        "iam_timeout",
        slow=True,
    ),
    # Our question's fault: neither a denial nor an outage
    IamFault("400", status("400 Bad Request"), "iam_rejected", counts=False, degrades=False),
    IamFault("409", status("409 Conflict"), "iam_rejected", counts=False, degrades=False),
    IamFault("413", status("413 Content Too Large"), "iam_rejected", counts=False, degrades=False),
    IamFault(
        "413 before the body was read",
        plays(reply(b"{}", "413 Content Too Large"), end="fin", early=True),
        "iam_rejected",
        counts=False,
        degrades=False,
    ),
    IamFault("422", status("422 Unprocessable Content"), "iam_rejected", counts=False, degrades=False),
    IamFault("every item an error", items(decision=False, context=_ERROR), "iam_error", counts=False, degrades=False),
    IamFault("permits with errors", items(decision=True, context=_ERROR), "iam_error", counts=False, degrades=False),
    IamFault(
        "one item an error among permits",
        last(decision=False, context=_ERROR),
        "iam_error",
        counts=False,
        degrades=False,
    ),
]
