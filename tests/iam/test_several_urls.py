"""Several urls of one IAM: what one cannot answer another does, and one that is well again is found by a probe."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from gateway.iam.build import build_iam
from gateway.iam.inquiry import EVERY, SAVED, HedgeBudget
from gateway.model.route import BreakerPolicy, RetryPolicy
from gateway.model.settings import IamSettings, IamTimeouts
from gateway.resilience.breaker import Breaker
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import NO_SPAN
from tests.iam.conftest import Clock, Memory, allowed, answer, codes, decided, question, turns

URLS = ("http://a.example", "http://b.example")
TOTAL_S = 0.4


class Url(httpx.AsyncBaseTransport):
    """One url of IAM in memory. `fault(evaluations)`: its reply where it is not well; None hangs."""

    def __init__(self):
        self.fault = decided
        self.asked, self.probes = [], 0
        self.delay_s = 0.0

    async def handle_async_request(self, request):
        document = json.loads(request.content or b"{}")
        evaluations = document.get("evaluations", [document])
        if evaluations[0].get("subject", {}).get("type") == "gateway":
            self.probes += 1
        else:
            self.asked.append([one["resource"]["id"] for one in evaluations])
        await asyncio.sleep(self.delay_s)
        reply = self.fault(evaluations)
        if reply is None:
            await asyncio.Event().wait()
        if isinstance(reply, Exception):
            raise reply
        return reply


class Pair:
    """A client with two urls."""

    def __init__(self, **settings):
        self.urls = [Url(), Url()]
        defaults = {
            "retry": RetryPolicy(attempts=1),
            "timeout": IamTimeouts(connect_s=1.0, read_s=1.0, total_s=TOTAL_S),
        }
        policy = BreakerPolicy(failure_threshold=2, open_for_s=5.0)
        self.settings = IamSettings(urls=URLS, breaker=policy, **(defaults | settings))
        self.clock, self.memory = Clock(), Memory()
        self.breaker = Breaker("iam", "iam", policy, observer=self.memory, clock=self.clock)
        self.iam = build_iam(
            self.settings, http=self.urls, breaker=self.breaker, observer=self.memory, clock=self.clock
        )

    async def decide(self, *questions):
        return await self.iam.decide(questions, deadline=Deadline.after(5), request_id="r", span=NO_SPAN)

    def aside(self):
        return [one["set_aside"] for one in self.iam.snapshot()["urls"]]


@pytest.fixture
async def make_pair():
    pairs = []

    def make(**settings):
        pairs.append(Pair(**settings))
        return pairs[-1]

    yield make
    for pair in pairs:
        await pair.iam.aclose()


@pytest.fixture
async def pair(make_pair):
    return make_pair()


FAULTS = {
    "refused": lambda _: httpx.ConnectError("refused"),
    "cut": lambda _: httpx.RemoteProtocolError("cut"),
    "hangs": lambda _: None,
    "500": lambda _: answer(500),
    "429": lambda _: answer(429),
    "401": lambda _: answer(401),
    "404": lambda _: answer(404),
    "garbage": lambda _: answer(body=b"{"),
    "item errors": lambda items: answer(
        document={"evaluations": [{"decision": False, "context": {"error": {"status": 500}}} for _ in items]}
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_whatever_fails_at_one_url_is_decided_by_the_next_and_the_one_is_asked_no_more(pair, fault):
    pair.urls[0].fault = FAULTS[fault]
    assert allowed(await pair.decide(question("alice"), question("bob")))
    assert pair.aside() == [True, False]
    before = len(pair.urls[0].asked)
    assert allowed(await pair.decide(question("carol")))
    assert len(pair.urls[0].asked) == before
    assert pair.breaker.state == "closed"


async def test_while_all_is_well_only_the_first_is_asked(pair):
    for n in range(5):
        await pair.decide(question("alice", f"r{n}"))
    assert (len(pair.urls[0].asked), len(pair.urls[1].asked)) == (5, 0)


async def test_a_url_that_is_well_again_is_found_by_a_probe(pair, monkeypatch):
    monkeypatch.setattr("gateway.upstream.origins.ASIDE_S", 0.02)
    pair.urls[0].fault = FAULTS["500"]
    await pair.decide(question("alice"))
    pair.urls[0].fault = decided
    for _ in range(200):
        await asyncio.sleep(0.01)
        if pair.aside() == [False, False]:
            break
    assert pair.urls[0].probes
    asked = len(pair.urls[0].asked)
    assert allowed(await pair.decide(question("alice")))
    assert len(pair.urls[0].asked) == asked + 1


async def test_a_question_that_fails_everywhere_sets_no_url_aside_for_others(pair):
    """A probe says that IAM works, so the question is at fault."""

    def poisoned(evaluations):
        if any(one["resource"]["id"] == "poison" for one in evaluations):
            return answer(500)
        return decided(evaluations)

    for url in pair.urls:
        url.fault = poisoned
    (decision,) = await pair.decide(question("mallory", "poison"))
    assert (decision.fault.code, decision.isolated) == ("iam_error", True)
    assert pair.aside() == [False, False]
    for n in range(5):
        await pair.decide(question("mallory", "poison"))
        assert allowed(await pair.decide(question("alice", f"r{n}")))
    assert pair.breaker.state == "closed"


async def test_a_url_that_answered_somebody_meanwhile_is_not_set_aside(pair):
    gate = asyncio.Event()

    async def first(request):
        if b"slow" in request.content:
            await gate.wait()
            return answer(500)
        return decided(json.loads(request.content)["evaluations"])

    pair.urls[0].handle_async_request = first
    slow = asyncio.create_task(pair.decide(question("mallory", "slow")))
    await turns()
    assert allowed(await pair.decide(question("alice")))
    gate.set()
    assert allowed(await slow)
    assert pair.aside() == [False, False]


async def test_what_one_url_rejects_is_not_asked_of_the_next(pair):
    pair.urls[0].fault = lambda _: answer(400)
    assert codes(await pair.decide(question())) == ["iam_rejected"]
    assert pair.urls[1].asked == []


async def test_the_circuit_is_about_all_urls(pair):
    for url in pair.urls:
        url.fault = FAULTS["refused"]
    for _ in range(2):
        assert codes(await pair.decide(question())) == ["iam_unreachable"]
    assert pair.breaker.state == "open"
    assert codes(await pair.decide(question())) == ["iam_circuit_open"]


async def test_with_all_urls_set_aside_each_is_still_asked(pair):
    pair.urls[0].fault = FAULTS["500"]
    await pair.decide(question("alice"))
    pair.urls[0].fault, pair.urls[1].fault = decided, FAULTS["500"]
    assert allowed(await pair.decide(question("bob")))
    assert pair.aside() == [False, True]


async def test_a_hanging_url_leaves_the_others_their_share_of_the_time(pair):
    pair.urls[0].fault = FAULTS["hangs"]
    begun_s = asyncio.get_running_loop().time()
    assert allowed(await pair.decide(question()))
    assert asyncio.get_running_loop().time() - begun_s < TOTAL_S


async def test_a_url_that_takes_single_questions_only_stands_in_for_one_that_takes_many(make_pair):
    pair = make_pair(discovery=True)
    served = {"access_evaluation_endpoint": "/access/v1/evaluation"}

    def at(url):
        base = URLS[url]
        more = {"access_evaluations_endpoint": base + "/access/v1/evaluations"} if url == 0 else {}
        document = {"policy_decision_point": base, **{key: base + path for key, path in served.items()}, **more}

        async def reply(request):
            if request.method == "GET":
                return answer(document=document)
            asked = json.loads(request.content)
            return decided(asked["evaluations"]) if "evaluations" in asked else answer(document={"decision": True})

        return reply

    pair.urls[0].handle_async_request = at(0)
    pair.urls[1].handle_async_request = at(1)
    assert allowed(await pair.decide(question("alice")))

    async def down(request):
        raise httpx.ConnectError("refused")

    pair.urls[0].handle_async_request = down
    assert allowed(await pair.decide(question("alice"), question("bob"), question("carol")))


async def test_a_slow_url_is_hedged_and_the_first_reply_wins(make_pair):
    pair = make_pair(hedge_s=0.01)
    pair.urls[0].delay_s = 0.15
    pair.urls[1].fault = lambda items: decided(items, lambda _: False)
    begun_s = asyncio.get_running_loop().time()
    assert codes(await pair.decide(question())) == ["deny"]
    assert asyncio.get_running_loop().time() - begun_s < 0.15
    assert pair.aside() == [False, False], "slow is not failed"
    assert pair.memory.hedges == ["won"]


async def test_hedges_keep_to_their_budget(make_pair):
    pair = make_pair(hedge_s=0.001)
    pair.urls[0].delay_s = 0.01
    for n in range(2 * EVERY):
        assert allowed(await pair.decide(question("alice", f"r{n}")))
    assert SAVED <= len(pair.urls[1].asked) <= SAVED + 2


async def test_a_hedge_that_fails_does_not_end_the_first_call(make_pair):
    pair = make_pair(hedge_s=0.01)
    pair.urls[0].delay_s = 0.05
    for fault in (FAULTS["500"], lambda _: answer(400)):
        pair.urls[1].fault = fault
        assert allowed(await pair.decide(question()))
    assert pair.memory.hedges == ["lost", "lost"]


def test_the_budget_of_hedges_is_one_in_twenty_and_three_saved_up():
    budget = HedgeBudget(0.1, [].append)
    for _ in range(1000):
        budget.call()
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    for _ in range(EVERY):
        assert not budget.take()
        budget.call()
    assert budget.take()


async def test_a_probe_asks_all_urls_at_the_same_time(pair):
    pair.urls[0].fault = FAULTS["hangs"]
    begun_s = asyncio.get_running_loop().time()
    assert await pair.iam.probe() == ""
    assert asyncio.get_running_loop().time() - begun_s < TOTAL_S / 2
    pair.urls[1].fault = FAULTS["500"]
    assert await pair.iam.probe() == "iam_timeout"
