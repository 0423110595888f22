"""A question that makes IAM fail is told from an IAM that fails: by who else is answered, and by the harmless probe."""

import asyncio

import httpx
import pytest

from gateway.app.clients import iam_upstream
from gateway.model.route import BreakerPolicy, RetryPolicy
from gateway.model.settings import IamApi, IamSettings, IamTimeouts
from tests.iam.conftest import allowed, answer, decided, question, turns

FAULTS = {
    "500": lambda: answer(500, {}),
    "503 with Retry-After": lambda: answer(503, {}, [(b"retry-after", b"9")]),
    "broken": lambda: httpx.ReadError(""),
    "silent": lambda: httpx.ReadTimeout(""),
    "garbage": lambda: answer(200, {"evaluations": "?"}),
    "a firewall's 403": lambda: answer(403, {}),
    "gone": lambda: answer(404, {}),
}
HANG = object()


def poisoned(bench, make, *, probe=decided):
    """Questions about `poison…` fail, the probe is answered by `probe`, everything else is permitted."""

    def reply(items):
        if items and items[0]["subject"]["id"] == "gateway":
            return probe(items)
        return make() if any(item["resource"]["id"].startswith("poison") for item in items) else decided(items)

    bench.transport.reply = reply


def hanging(bench, hangs):
    """Whoever `hangs(items)` is about is never answered."""
    plain, never = bench.transport.handle_async_request, asyncio.Event()

    async def serve(request):
        if hangs(request.content):
            await never.wait()
        return await plain(request)

    bench.transport.handle_async_request = serve


async def test_a_lone_failing_question_is_isolated_when_the_probe_is_answered(bench):
    for number, make in enumerate(FAULTS.values()):
        poisoned(bench, make)
        (decision,) = await bench.decide(question("mallory", f"poison{number}"))
        assert decision.fault is not None
        assert decision.isolated
    assert bench.breaker.snapshot()["consecutive_failures"] == 0
    assert bench.transport.probes == 1, "its answer is good for a second"


@pytest.mark.parametrize("make", FAULTS.values(), ids=FAULTS)
async def test_a_probe_that_is_denied_or_rejected_is_answered(make_bench, make):
    for probe in (lambda items: decided(items, lambda _: False), lambda items: answer(400, {})):
        bench = make_bench()
        poisoned(bench, make, probe=probe)
        (decision,) = await bench.decide(question("mallory", "poison"))
        assert decision.isolated


@pytest.mark.parametrize("make", FAULTS.values(), ids=FAULTS)
async def test_when_the_probe_fails_too_it_is_iams_own(bench, make):
    poisoned(bench, make, probe=lambda items: make())
    (decision,) = await bench.decide(question("alice", "poison"))
    assert not decision.isolated
    assert bench.breaker.snapshot()["consecutive_failures"] == 1


async def test_a_batch_of_which_every_question_fails_is_judged_the_same(bench):
    poisoned(bench, FAULTS["500"])
    decisions = await bench.decide(question("mallory", "poison1"), question("mallory", "poison2"))
    assert all(decision.isolated for decision in decisions)
    assert bench.breaker.snapshot()["consecutive_failures"] == 0


async def test_a_question_decided_meanwhile_is_proof_enough(bench):
    """No probe is asked."""
    hanging(bench, lambda content: b"poison" in content)
    lone = bench.start(question("mallory", "poison"), deadline_s=30)
    await turns()
    assert allowed(await bench.decide(question("alice")))
    call = next(iter(bench.iam._calls.values()))
    call.ring()
    await turns()
    assert bench.transport.probes == 0
    lone.cancel()


async def test_a_lone_question_is_tried_once_more_over_another_connection(bench):
    replies = [answer(500, {}), answer(200, {"evaluations": [{"decision": True}]})]
    bench.transport.reply = lambda items: replies.pop(0)
    assert allowed(await bench.decide(question()))
    assert [bool(request.extensions.get("fresh")) for request in bench.transport.requests] == [False, True]


async def test_while_a_call_is_silent_the_probe_is_asked_before_its_time_is_over(make_bench):
    bench = make_bench(timeout=IamTimeouts(read_s=0.2, total_s=0.2))
    hanging(bench, lambda content: b"poison" in content)
    (decision,) = await bench.decide(question("mallory", "poison"))
    assert (decision.fault.code, decision.isolated, bench.transport.probes) == ("iam_timeout", True, 1)


async def test_a_probe_without_an_answer_in_time_leaves_it_with_iam(make_bench):
    bench = make_bench(timeout=IamTimeouts(read_s=0.1, total_s=0.1))
    hanging(bench, lambda content: True)
    (decision,) = await bench.decide(question("alice"))
    assert (decision.fault.code, decision.isolated) == ("iam_timeout", False)
    assert bench.breaker.snapshot()["consecutive_failures"] == 1


async def test_one_probe_at_a_time_serves_all_who_wait_for_its_word(make_bench):
    bench = make_bench(retry=RetryPolicy(attempts=1), max_concurrency=20, batch_max_size=1)
    poisoned(bench, FAULTS["500"])
    tasks = [bench.start(question("mallory", f"poison{n}")) for n in range(10)]
    decisions = [decision for decisions in await asyncio.gather(*tasks) for decision in decisions]
    assert all(decision.isolated for decision in decisions)
    assert bench.transport.probes == 1


def test_calls_that_hang_never_keep_the_probe_from_its_connection():
    settings = IamSettings(urls=("http://127.0.0.1:1",), max_concurrency=3)
    assert iam_upstream(settings, settings.urls[0]).max_connections > settings.max_concurrency


async def test_while_the_circuit_is_open_no_failure_asks_the_probe(bench):
    bench.transport.gate.clear()
    poisoned(bench, FAULTS["500"])
    task = bench.start(question("alice", "poison"))
    await turns()
    bench.breaker.force_open()
    bench.transport.gate.set()
    (decision,) = await task
    assert not decision.isolated
    assert bench.transport.probes == 0


# Whatever the probe says


async def test_many_subjects_without_one_decision_are_iams_own_whatever_the_probe_says(bench):
    poisoned(bench, FAULTS["500"])
    said = [(await bench.decide(question(f"u{n % 3}", f"poison{n}")))[0].isolated for n in range(6)]
    assert said[:4] == [True] * 4
    assert said[4:] == [False] * 2
    assert bench.breaker.state == "open"


async def test_item_errors_of_many_subjects_are_iams_own_too(bench):
    error = {"decision": False, "context": {"error": {"status": 500}}}
    bench.transport.reply = lambda items: answer(200, {"evaluations": [error] * len(items)})
    said = [(await bench.decide(question(f"u{n % 3}", f"x{n}")))[0].isolated for n in range(5)]
    assert said == [True] * 4 + [False]
    assert bench.breaker.state == "open"


async def test_of_two_subjects_or_one_the_probes_word_stands(bench):
    poisoned(bench, FAULTS["500"])
    for n in range(20):
        (decision,) = await bench.decide(question(f"u{n % 2}", f"poison{n}"))
        assert decision.isolated
    assert bench.breaker.state == "closed"


async def test_one_decided_question_begins_the_count_anew(bench):
    poisoned(bench, FAULTS["500"])
    for n in range(20):
        (decision,) = await bench.decide(question(f"u{n % 3}", f"poison{n}"))
        assert decision.isolated
        if n % 4 == 3:
            assert allowed(await bench.decide(question("bob", "well")))
    assert bench.breaker.state == "closed"


# Trials


async def opened(bench):
    """The circuit opened by a real outage of which one subject knows."""
    bench.transport.reply = lambda items: answer(500, {})
    for _ in range(bench.settings.breaker.failure_threshold):
        await bench.decide(question("bob"))
    assert bench.breaker.state == "open"
    bench.clock.now += 5
    await asyncio.sleep(0)


async def test_a_trial_whose_own_question_fails_closes_the_circuit_when_the_probe_is_answered(bench):
    await opened(bench)
    bench.iam._proof._said_s = 0.0
    poisoned(bench, FAULTS["500"])
    (decision,) = await bench.decide(question("mallory", "poison"))
    assert decision.isolated
    assert bench.breaker.state == "closed"


async def test_a_trial_fails_when_the_probe_does(bench):
    await opened(bench)
    (decision,) = await bench.decide(question("bob"))
    assert not decision.isolated
    assert bench.breaker.state == "open"


async def test_a_probe_that_spoke_against_the_truth_closes_no_circuit(make_bench):
    """The store is down, the probe is denied from memory: only a real decision closes, and nobody's failure bars it."""
    bench = make_bench(breaker=BreakerPolicy(failure_threshold=3, open_for_s=5, open_for_max_s=500))
    poisoned(bench, FAULTS["500"])
    for n in range(3):
        await bench.decide(question(f"u{n}", f"poison{n}"))
    assert bench.breaker.state == "open"
    assert not bench.iam._proof.believed
    bench.clock.now += 5
    (decision,) = await bench.decide(question("mallory", "poison"))
    assert (decision.fault.code, decision.isolated) == ("iam_error", True)
    assert bench.breaker.state == "half_open"
    assert allowed(await bench.decide(question("bob", "well")))
    assert bench.breaker.state == "closed"


@pytest.mark.parametrize("api", [IamApi.AUTHZEN, IamApi.JSON, IamApi.OPA])
async def test_the_rule_is_the_same_in_every_protocol(make_bench, api):
    bench = make_bench(api=api, opa_path="p")
    made = {IamApi.AUTHZEN: "evaluations", IamApi.JSON: "results", IamApi.OPA: "result"}[api]
    said = "allowed" if api is IamApi.JSON else "decision"

    async def serve(request):
        if b"poison" in request.content:
            return answer(500, {})
        return answer(200, {made: [{said: True}]})

    bench.transport.handle_async_request = serve
    assert (await bench.decide(question("mallory", "poison")))[0].isolated
