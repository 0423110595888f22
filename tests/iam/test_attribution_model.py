"""Random callers, questions, failing questions, faults of IAM and hang-ups on a clock of its own: four things hold.

No permit but IAM's own, and no failure that may degrade while IAM works for anybody of three; nobody waits past its
deadline without an outcome; a healthy circuit never opens; a dead one opens after `failure_threshold` failures and at
most a second.
"""

import asyncio
import itertools
import json

import httpx
import hypothesis.strategies as st
from hypothesis import example, given

from gateway.iam.build import build_iam
from gateway.model.permit import Outcome
from gateway.model.route import BreakerPolicy
from gateway.model.settings import IamSettings
from gateway.resilience.breaker import Breaker
from gateway.resilience.deadline import GRACE_S, Deadline
from gateway.telemetry.observer import NO_SPAN
from tests.iam.conftest import URL, Memory, answer, decided, question
from tests.support.jumping import on_jumping_clock
from tests.support.properties import examples

THRESHOLD = 3
ANSWERS_IN_S = 0.01
FAULTS = ["500", "hang", "broken", "garbage"]
OURS = {"iam_timeout", "iam_circuit_open"}


class ModelIam(httpx.AsyncBaseTransport):
    """Permits everybody but mallory. `down`: fails everything so; questions about `poison-FAULT` always fail so."""

    def __init__(self):
        self.down = None

    async def handle_async_request(self, request):
        body = request.content.decode()
        items = json.loads(body)["evaluations"]
        await asyncio.sleep(ANSWERS_IN_S)
        fault = self.down or next((name for name in FAULTS if f"poison-{name}" in body), None)
        match fault:
            case "500":
                return answer(500, {})
            case "hang":
                await asyncio.Event().wait()
            case "broken":
                raise httpx.ReadError("")
            case "garbage":
                return answer(200, body=b"?")
        return decided(items, lambda item: item["subject"]["id"] != "mallory")


class Run:
    """One client on the jumping clock."""

    def __init__(self):
        loop = asyncio.get_running_loop()
        self.loop = loop
        self.memory = Memory()
        self.transport = ModelIam()
        policy = BreakerPolicy(failure_threshold=THRESHOLD, open_for_s=5.0, open_for_max_s=60.0, probe_s=1.0)
        made = IamSettings(urls=(URL,), breaker=policy, max_concurrency=4, batch_max_size=4, max_queue=1000)
        self.breaker = Breaker("iam", "iam", policy, observer=self.memory, clock=loop.time)
        self.iam = build_iam(made, http=[self.transport], breaker=self.breaker, observer=self.memory, clock=loop.time)
        self.down_since_s = None
        self.up_since_s = loop.time()
        self.tasks = []
        self.numbers = itertools.count()

    async def ask(self, user, resource, deadline_s):
        began_s, was_up_since_s = self.loop.time(), self.up_since_s
        deadline = Deadline.after(deadline_s)
        (decision,) = await self.iam.decide(
            [question(user, f"{resource}-{next(self.numbers)}")], deadline=deadline, request_id="r", span=NO_SPAN
        )
        assert self.loop.time() <= began_s + deadline_s + GRACE_S + 0.01, "an outcome by the deadline"
        if decision.outcome is Outcome.ALLOW:
            assert user != "mallory"
            assert not resource.startswith("poison")
        healthy = self.down_since_s is None and self.up_since_s == was_up_since_s
        known = began_s - was_up_since_s > 2.0
        if decision.outcome is Outcome.UNKNOWN and healthy and known and self.breaker.state == "closed":
            late = self.loop.time() >= began_s + deadline_s
            everybody_fails = self.breaker.evidence.silence.proves(THRESHOLD)
            assert decision.isolated or late or everybody_fails or decision.fault.code in OURS, decision

    def start(self, *about):
        self.tasks.append(asyncio.create_task(self.ask(*about)))

    def set_down(self, fault):
        if fault and self.down_since_s is None:
            self.down_since_s = self.loop.time()
        elif fault is None and self.down_since_s is not None:
            self.down_since_s, self.up_since_s = None, self.loop.time()
        self.transport.down = fault

    async def finish(self):
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
        assert self.memory.bugs == []


USERS = ["alice", "bob", "mallory"]
ASK = st.tuples(
    st.just("ask"),
    st.sampled_from(USERS),
    st.sampled_from(["well", "well", *(f"poison-{name}" for name in FAULTS)]),
    st.sampled_from([0.3, 3.0, 10.0]),
)
STEPS = st.one_of(
    ASK,
    ASK,
    st.tuples(st.just("leave"), st.integers(0, 9)),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.3, 1.1, 6.0])),
    st.tuples(st.just("down"), st.sampled_from([None, *FAULTS])),
)


async def play(steps):
    run = Run()
    for name, *about in steps:
        match name:
            case "ask":
                run.start(*about)
            case "leave" if about[0] < len(run.tasks):
                run.tasks[about[0]].cancel()
            case "wait":
                await asyncio.sleep(about[0])
            case "down":
                run.set_down(about[0])
    await run.finish()
    await run.iam.aclose()
    assert (len(run.iam._waiting), run.iam._pendings, run.iam._calls, run.iam._held) == (0, {}, {}, {})


@examples(150)
@given(st.lists(STEPS, max_size=30))
@example([("wait", 6.0), *(("ask", user, "poison-500", 0.3) for user in USERS)])
def test_no_permit_by_mistake_nothing_to_buy_and_nobody_without_an_outcome(steps):
    on_jumping_clock(play(steps))


async def play_healthy(steps):
    """Two clients whose questions fail, in any pattern, beside anybody's good ones."""
    run = Run()
    for name, *about in steps:
        if name == "ask":
            user, resource, deadline_s = about
            run.start("alice" if user == "bob" else user, resource, deadline_s)
        elif name == "wait":
            await asyncio.sleep(about[0])
        elif name == "leave" and about[0] < len(run.tasks):
            run.tasks[about[0]].cancel()
    await run.finish()
    assert run.memory.circuits == []
    await run.iam.aclose()


@examples(150)
@given(st.lists(STEPS, max_size=30))
def test_a_healthy_iams_circuit_never_opens(steps):
    on_jumping_clock(play_healthy(steps))


async def play_dead(before, fault, users):
    """Callers come one after another; some good answers precede the death."""
    run = Run()
    for n in range(before):
        await run.ask(f"u{n}", "well", 10.0)
    run.set_down(fault)
    died_s = run.loop.time()
    failures = 0
    while run.breaker.state == "closed":
        await run.ask(f"u{failures % users}", "well", 10.0)
        failures += 1
        since_s = run.loop.time() - died_s
        assert failures < THRESHOLD or since_s <= 1.0 or run.breaker.state == "open", (failures, since_s)
        await asyncio.sleep(0.05)
    run.set_down(None)
    await asyncio.sleep(2.0)
    assert run.breaker.state == "closed", "its return is noticed within two seconds"
    await run.iam.aclose()


@examples(60)
@given(st.integers(0, 4), st.sampled_from(FAULTS), st.integers(1, 5))
def test_a_dead_iams_circuit_opens_after_the_threshold_and_at_most_a_second(before, fault, users):
    on_jumping_clock(play_dead(before, fault, users))
