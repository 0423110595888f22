"""Only 200 with exactly the documents that were asked for decides anything, in every protocol."""

import json

import httpx
import pytest

from gateway.checks import make_check
from gateway.iam.build import build_iam
from gateway.model.permit import Outcome, Question
from gateway.model.request import Subject
from gateway.model.route import RetryPolicy
from gateway.model.settings import BearerAuth, IamApi, IamSettings
from gateway.resilience.breaker import Breaker
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import NO_SPAN
from gateway.upstream.auth import build_credentials
from tests.iam.conftest import URL, Clock, Memory, codes, question

pytestmark = pytest.mark.httpx_mock(can_send_already_matched_responses=True)

BATCHES = {
    IamApi.AUTHZEN: ("/access/v1/evaluations", "evaluations", "decision"),
    IamApi.JSON: ("/iam/authorize/batch", "results", "allowed"),
    IamApi.OPA: ("/v1/data/gateway/decisions", "result", "decision"),
}


@pytest.fixture
async def ask(httpx_mock):
    """Ask questions by a client made of `settings`, over httpx's own transport."""
    clients = []

    async def ask(*questions, **settings):
        made = IamSettings(urls=(URL,), retry=RetryPolicy(attempts=1), opa_path="/gateway/decisions", **settings)
        breaker = Breaker("iam", "iam", made.breaker, observer=Memory(), clock=Clock())
        credentials = made.auth and build_credentials(made.auth, http=None)
        http = [httpx.AsyncHTTPTransport()]
        iam = build_iam(made, http=http, breaker=breaker, observer=Memory(), credentials=credentials)
        clients.append(iam)
        return await iam.decide(questions, deadline=Deadline.after(5), request_id="req-7", span=NO_SPAN)

    yield ask
    for iam in clients:
        await iam.aclose()


@pytest.fixture(params=BATCHES, ids=str)
def protocol(request):
    return (request.param, *BATCHES[request.param])


async def test_a_well_formed_reply_decides(ask, httpx_mock, protocol):
    api, path, items, said = protocol
    httpx_mock.add_response(url=URL + path, json={items: [{said: True}, {said: False}], "more": [1.5, None, {}]})
    decisions = await ask(question("a"), question("b"), api=api)
    assert [decision.outcome for decision in decisions] == [Outcome.ALLOW, Outcome.DENY]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b"{}",
        b"true",
        b"1",
        b'"allow"',
        b"NaN",
        b"<html>allowed</html>",
        b"@ALLOW@ trailing",
        b"@ALLOW@@ALLOW@",
        b"\xef\xbb\xbf@ALLOW@",
        b"\xff\xfe{\x00}\x00",
        b"@ALLOW@\xff",
        b'{"@ITEMS@": true}',
        b'{"@ITEMS@": null}',
        b'{"@ITEMS@": {"0": {"@SAID@": true}}}',
        b'{"@ITEMS@": []}',
        b'{"@ITEMS@": [{"@SAID@": true}, {"@SAID@": true}]}',
        b'{"@ITEMS@": [null]}',
        b'{"@ITEMS@": ["true"]}',
        b'{"@ITEMS@": [[true]]}',
        b'{"@ITEMS@": [{}]}',
        b'{"@ITEMS@": [{"@SAID@": "true"}]}',
        b'{"@ITEMS@": [{"@SAID@": "false"}]}',
        b'{"@ITEMS@": [{"@SAID@": 1}]}',
        b'{"@ITEMS@": [{"@SAID@": null}]}',
        b'{"@ITEMS@": [{"@SAID@": []}]}',
        b'{"@ITEMS@": [{"@SAID@": false, "@SAID@": true}]}',
        b'{"@ITEMS@": [], "@ITEMS@": [{"@SAID@": true}]}',
        b'{"@ITEMS@": [{"@SAID@": true}], "x": NaN}',
        b'{"@ITEMS@": [{"@SAID@": true}], "x": -Infinity}',
        b'{"@ITEMS@": [{"@SAID@": true}], "x": {"a": 1, "a": 2}}',
        b'{"@ITEMS@": [{"@SAID@": true}], "x": ' + b"9" * 10_000 + b"}",
        b'{"@ITEMS@": [{"@SAID@": true}],}',
        b'{"@ITEMS@": [{"@SAID@": tru',
        b"{" * 5000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"@ITEMS@": [{"@SAID@": true}], "x": "' + b"x" * 1024 * 1024 + b'"}',
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
async def test_anything_else_is_an_invalid_response_and_no_permit(ask, httpx_mock, protocol, body):
    api, path, items, said = protocol
    allow = json.dumps({items: [{said: True}]}).encode()
    content = body.replace(b"@ALLOW@", allow).replace(b"@ITEMS@", items.encode()).replace(b"@SAID@", said.encode())
    httpx_mock.add_response(url=URL + path, content=content)
    assert codes(await ask(question(), api=api)) == ["iam_invalid_response"]


async def test_utf_16_is_no_utf_8(ask, httpx_mock):
    httpx_mock.add_response(content='{"evaluations": [{"decision": true}]}'.encode("utf-16"))
    assert codes(await ask(question())) == ["iam_invalid_response"]


@pytest.mark.parametrize("size", [1, 2, 4])
async def test_as_many_decisions_as_questions(ask, httpx_mock, size):
    """Also when the questions are asked again apart, a wrong number stays wrong."""
    httpx_mock.add_response(json={"evaluations": [{"decision": True}] * 3}, is_reusable=True)
    decisions = await ask(*(question(f"u{n}") for n in range(size)))
    assert codes(decisions) == ["iam_invalid_response"] * size


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (201, "iam_invalid_response"),
        (202, "iam_invalid_response"),
        (204, "iam_invalid_response"),
        (206, "iam_invalid_response"),
        (301, "iam_invalid_response"),
        (302, "iam_invalid_response"),
        (307, "iam_invalid_response"),
        (304, "iam_invalid_response"),
        (400, "iam_rejected"),
        (401, "iam_auth_error"),
        (402, "iam_invalid_response"),
        (403, "iam_auth_error"),
        (404, "iam_invalid_response"),
        (405, "iam_invalid_response"),
        (408, "iam_error"),
        (409, "iam_rejected"),
        (410, "iam_invalid_response"),
        (413, "iam_rejected"),
        (422, "iam_rejected"),
        (429, "iam_error"),
        (500, "iam_error"),
        (501, "iam_error"),
        (502, "iam_error"),
        (503, "iam_error"),
        (504, "iam_error"),
        (599, "iam_error"),
    ],
)
async def test_only_200_is_an_answer(ask, httpx_mock, status, code):
    headers = {"Location": "http://evil.test/steal"}
    httpx_mock.add_response(status_code=status, headers=headers, json={"evaluations": [{"decision": True}]})
    assert codes(await ask(question())) == [code]
    assert {request.url.host for request in httpx_mock.get_requests()} == {"iam.test"}


async def test_a_location_that_is_no_url_changes_nothing(ask, httpx_mock):
    httpx_mock.add_response(status_code=302, headers={"Location": "http://a:b:c/"})
    assert codes(await ask(question())) == ["iam_invalid_response"]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"decision": False, "context": {"error": {"status": 500}}}, "iam_error"),
        ({"decision": False, "context": {"error": {"status": 503.0}}}, "iam_error"),
        ({"decision": False, "context": {"error": {"status": 10**400}}}, "iam_error"),
        ({"decision": True, "context": {"error": {"status": -(10**400)}}}, "iam_error"),
        ({"decision": False, "context": {"error": {"status": 400}}}, "deny"),
        ({"decision": False, "context": {"error": {"status": 401}}}, "deny"),
        ({"decision": False, "context": {"error": {"status": 404}}}, "deny"),
        ({"decision": False, "context": {"error": {"status": True}}}, "deny"),
        ({"decision": False, "context": {"error": "no such user"}}, "deny"),
        ({"decision": False, "context": {"reason": "no"}}, "deny"),
        ({"decision": False, "context": None}, "deny"),
        ({"decision": True, "context": {"error": {"status": 200}}}, "iam_error"),
        ({"decision": True, "context": {"error": {"status": 401}}}, "iam_error"),
        ({"decision": True, "context": {"error": {}}}, "iam_error"),
        ({"decision": True, "context": {"error": "odd"}}, "iam_error"),
        ({"decision": True, "context": {"error": None}}, "allow"),
        ({"decision": True, "context": {"ttl": 5}}, "allow"),
        ({"decision": True, "context": []}, "allow"),
    ],
)
async def test_an_items_error_is_read_as_authzen_says(ask, httpx_mock, item, expected):
    httpx_mock.add_response(json={"evaluations": [item]})
    assert codes(await ask(question())) == [expected]


@pytest.mark.parametrize("opaque", [True, False])
async def test_401_of_an_item_is_about_an_opaque_token_only(ask, httpx_mock, opaque):
    httpx_mock.add_response(json={"evaluations": [{"decision": False, "context": {"error": {"status": 401}}}]})
    (decision,) = await ask(question(opaque=opaque))
    assert (decision.outcome, decision.unauthenticated) == (Outcome.DENY, opaque)


async def test_authzen_asks_to_the_letter(ask, httpx_mock):
    httpx_mock.add_response(json={"evaluations": [{"decision": True}, {"decision": True}]})
    await ask(question("alice"), question("bob", context={"ip": "::1"}), auth=BearerAuth("iam-secret"))
    (request,) = httpx_mock.get_requests()
    assert request.method == "POST"
    assert str(request.url) == URL + "/access/v1/evaluations"
    assert json.loads(request.content) == {
        "options": {"evaluations_semantic": "execute_all"},
        "evaluations": [
            {
                "subject": {"type": "identity", "id": "alice"},
                "action": {"name": "read"},
                "resource": {"type": "system", "id": "inventory"},
            },
            {
                "subject": {"type": "identity", "id": "bob"},
                "action": {"name": "read"},
                "resource": {"type": "system", "id": "inventory"},
                "context": {"ip": "::1"},
            },
        ],
    }
    assert dict(request.headers) == {
        "host": "iam.test:8181",
        "content-type": "application/json",
        "accept": "application/json",
        "accept-encoding": "identity",
        "authorization": "Bearer iam-secret",
        "content-length": str(len(request.content)),
        "x-request-id": "req-7",
    }


async def test_the_plain_iam_is_asked_to_the_letter(ask, httpx_mock):
    httpx_mock.add_response(json={"results": [{"allowed": True}]})
    await ask(question("alice"), api=IamApi.JSON)
    (request,) = httpx_mock.get_requests()
    assert str(request.url) == URL + "/iam/authorize/batch"
    assert json.loads(request.content) == {
        "checks": [{"subject": "alice", "action": "read", "resource": "system:inventory"}]
    }


async def test_the_plain_iam_is_told_properties_and_context_where_a_question_has_them(ask, httpx_mock):
    httpx_mock.add_response(json={"results": [{"allowed": True}]})
    subject = Subject("identity", "a", "k", "{}", properties={"tenant": 7})
    check = make_check(
        {"name": "read", "properties": {"soft": True}}, {"type": "r", "id": "1", "properties": {"x": 1}}, {"ip": "::1"}
    )
    await ask(Question(subject, check), api=IamApi.JSON)
    (asked,) = json.loads(httpx_mock.get_requests()[0].content)["checks"]
    assert asked["properties"] == {"subject": {"tenant": 7}, "action": {"soft": True}, "resource": {"x": 1}}
    assert asked["context"] == {"ip": "::1"}


async def test_the_plain_iam_without_a_batch_path_is_asked_one_by_one(ask, httpx_mock):
    def reply(request):
        return httpx.Response(200, json={"allowed": json.loads(request.content)["subject"] == "alice"})

    httpx_mock.add_callback(reply, url=URL + "/check", is_reusable=True)
    decisions = await ask(
        question("alice"), question("bob"), api=IamApi.JSON, batch_path=None, single_path="/check", max_concurrency=1
    )
    assert codes(decisions) == ["allow", "deny"]
    assert json.loads(httpx_mock.get_requests()[0].content) == {
        "subject": "alice",
        "action": "read",
        "resource": "system:inventory",
    }


async def test_opa_is_asked_to_the_letter_and_may_answer_with_booleans(ask, httpx_mock):
    httpx_mock.add_response(url=URL + "/v1/data/gateway/decisions", json={"result": [True, {"decision": False}]})
    decisions = await ask(question("alice"), question("bob"), api=IamApi.OPA)
    assert codes(decisions) == ["allow", "deny"]
    asked = json.loads(httpx_mock.get_requests()[0].content)
    assert [item["subject"]["id"] for item in asked["input"]["evaluations"]] == ["alice", "bob"]


async def test_an_undefined_result_of_opa_is_unknown_and_not_asked_apart(ask, httpx_mock):
    httpx_mock.add_response(json={})
    assert codes(await ask(question("a"), question("b"), api=IamApi.OPA)) == ["iam_invalid_response"] * 2
    assert len(httpx_mock.get_requests()) == 2, "and the probe"


async def test_no_cookie_of_iam_is_ever_sent_back(ask, httpx_mock):
    reply = {"evaluations": [{"decision": True}]}
    httpx_mock.add_response(headers={"Set-Cookie": "iam=1"}, json=reply, is_reusable=True)
    await ask(question("a"))
    await ask(question("a"))
    assert all("cookie" not in request.headers for request in httpx_mock.get_requests())


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip"])
async def test_a_compressed_reply_is_not_read(ask, httpx_mock, coding):
    stream = httpx.ByteStream(b'{"evaluations": [{"decision": true}]}')
    httpx_mock.add_response(headers={"Content-Encoding": coding}, stream=stream)
    assert codes(await ask(question())) == ["iam_invalid_response"]


async def test_a_token_is_in_no_fault_and_no_repr(ask, httpx_mock):
    httpx_mock.add_response(status_code=500, text="token-that-is-secret")
    asked = question("token-that-is-secret", opaque=True)
    (decision,) = await ask(asked, auth=BearerAuth("iam-secret"))
    shown = f"{decision!r} {decision.fault} {decision.fault.detail} {decision.fault.reason} {asked!r}"
    assert "secret" not in shown
