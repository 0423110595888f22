"""AuthZEN discovery: endpoints as published, batches only where there are some, nothing believed about other hosts."""

import json

import httpx
import pytest

from tests.iam.conftest import URL, codes, question

CONFIGURATION = {
    "policy_decision_point": URL,
    "access_evaluation_endpoint": URL + "/v1/one",
    "access_evaluations_endpoint": URL + "/v1/many",
}


@pytest.fixture
def bench(make_bench):
    bench = make_bench(discovery=True)
    bench.served = dict(CONFIGURATION)
    bench.paths = []

    async def serve(request):
        bench.paths.append(request.url.path)
        if request.url.path == "/.well-known/authzen-configuration":
            assert request.method == "GET"
            return httpx.Response(200, json=bench.served)
        if request.url.path not in {"/v1/one", "/v1/many"}:
            return httpx.Response(404)
        asked = json.loads(request.content)
        if "evaluations" in asked:
            return httpx.Response(200, json={"evaluations": [{"decision": True}] * len(asked["evaluations"])})
        return httpx.Response(200, json={"decision": asked["subject"]["id"] != "mallory"})

    bench.transport.handle_async_request = serve
    return bench


async def test_the_published_endpoint_is_asked_and_discovered_once(bench):
    assert codes(await bench.decide(question("a"))) == ["allow"]
    assert codes(await bench.decide(question("a"), question("b"), question("c"))) == ["allow"] * 3
    assert bench.paths == ["/.well-known/authzen-configuration", "/v1/many", "/v1/many"]


async def test_concurrent_first_calls_discover_once(bench):
    assert codes(await bench.decide(*(question(f"u{n}") for n in range(6)))) == ["allow"] * 6
    assert bench.paths.count("/.well-known/authzen-configuration") == 1


async def test_without_a_batch_endpoint_questions_are_asked_one_by_one(bench):
    del bench.served["access_evaluations_endpoint"]
    assert codes(await bench.decide(question("a"), question("mallory"), question("c"))) == ["allow", "deny", "allow"]
    assert codes(await bench.decide(question("a"), question("mallory"))) == ["allow", "deny"]
    assert bench.paths.count("/v1/one") == 5


@pytest.mark.parametrize(
    "change",
    [
        {"policy_decision_point": "http://other.test"},
        {"policy_decision_point": None},
        {"access_evaluations_endpoint": "http://evil.test/v1/many"},
        {"access_evaluations_endpoint": "https://iam.test:8181/v1/many"},
        {"access_evaluations_endpoint": "http://iam.test:81810/v1/many"},
        {"access_evaluations_endpoint": "http://iam.test:8181@evil.test/"},
        {"access_evaluations_endpoint": "/v1/many"},
        {"access_evaluations_endpoint": "http://iam.test:8181/\x00"},
        {"access_evaluations_endpoint": 7},
        {"access_evaluations_endpoint": None, "access_evaluation_endpoint": None},
    ],
)
async def test_what_is_not_believed_is_an_invalid_response(bench, change):
    bench.served.update(change)
    assert codes(await bench.decide(question())) == ["iam_invalid_response"]
    assert set(bench.paths) == {"/.well-known/authzen-configuration"}


async def test_a_slash_at_the_end_is_the_same_decision_point(bench):
    bench.served["policy_decision_point"] = URL + "/"
    assert codes(await bench.decide(question())) == ["allow"]


async def test_an_endpoint_that_is_gone_is_discovered_anew(bench):
    await bench.decide(question())
    bench.served |= {"access_evaluations_endpoint": URL + "/v1/gone", "access_evaluation_endpoint": URL + "/v1/gone"}
    bench.iam._servers._only._api = None
    assert codes(await bench.decide(question())) == ["iam_invalid_response"]
    bench.served |= CONFIGURATION
    assert codes(await bench.decide(question())) == ["allow"]


async def test_the_well_known_part_stands_between_host_and_path(make_bench):
    """Authorization API 1.0, section 9."""
    bench = make_bench(discovery=True, urls=(URL + "/tenant1",))
    paths = []

    async def serve(request):
        paths.append(request.url.path)
        base = URL + "/tenant1"
        if request.method == "GET":
            return httpx.Response(
                200, json={"policy_decision_point": base, "access_evaluation_endpoint": base + "/access/v1/evaluation"}
            )
        return httpx.Response(200, json={"decision": True})

    bench.transport.handle_async_request = serve
    assert codes(await bench.decide(question())) == ["allow"]
    assert paths == ["/.well-known/authzen-configuration/tenant1", "/tenant1/access/v1/evaluation"]


async def test_failed_discovery_is_a_failed_call_and_tried_again(bench):
    bench.served = ["odd"]
    assert codes(await bench.decide(question())) == ["iam_invalid_response"]
    assert bench.breaker.snapshot()["consecutive_failures"] == 1
    bench.served = dict(CONFIGURATION)
    assert codes(await bench.decide(question())) == ["allow"]
