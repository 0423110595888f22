"""Random interleavings of callers, hang-ups, faults and time: nobody is permitted by mistake, nobody waits for ever.

What is checked after every run: each caller has exactly one answer, `allow` only for what IAM permitted in a reply that
was well formed; no call, no question, no share of the queue and no trial's place is left behind.
"""

import asyncio

import httpx
import hypothesis.strategies as st
from hypothesis import given

from gateway.model.route import BreakerPolicy, RetryPolicy
from gateway.model.settings import IamTimeouts
from tests.iam.conftest import Bench, answer, codes, decided, question, turns
from tests.support.properties import examples

FAULTS = {
    "well": None,
    "refused": lambda: httpx.ConnectError(""),
    "lost": lambda: httpx.ReadError(""),
    "slow": lambda: httpx.ReadTimeout(""),
    "500": lambda: answer(500, {}),
    "503": lambda: answer(503, {}, [(b"retry-after", b"2")]),
    "400": lambda: answer(400, {}),
    "413": lambda: answer(413, {}),
    "401": lambda: answer(401, {}),
    "short": lambda: answer(200, {"evaluations": []}),
    "bug": lambda: RuntimeError("a bug"),
}
USERS = ["alice", "bob", "mallory"]
STEPS = st.one_of(
    st.tuples(st.just("ask"), st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from("abcd")), max_size=6)),
    st.tuples(st.just("leave"), st.integers(0, 9)),
    st.tuples(st.just("fault"), st.sampled_from(sorted(FAULTS))),
    st.tuples(st.just("poison"), st.sampled_from(sorted(FAULTS))),
    st.tuples(st.just("gate"), st.booleans()),
    st.tuples(st.just("clock"), st.sampled_from([0.5, 2.0, 5.0, 60.0])),
    st.tuples(st.just("force"), st.sampled_from(["force_open", "force_close", "auto"])),
    st.tuples(st.just("turns"), st.integers(1, 12)),
)


class Run:
    """Plays steps against one client whose IAM permits everybody but mallory."""

    def __init__(self):
        self.bench = Bench(
            max_concurrency=2,
            batch_max_size=4,
            max_queue=8,
            timeout=IamTimeouts(total_s=20.0),
            retry=RetryPolicy(attempts=2, backoff_s=0.0),
            breaker=BreakerPolicy(failure_threshold=2, open_for_s=5.0, open_for_max_s=20.0),
        )
        self.bench.transport.reply = self.reply
        self.fault = self.poison = "well"
        self.asked = []

    def reply(self, items):
        poisoned = any(item["resource"]["id"] == "d" for item in items)
        make = FAULTS[self.fault] or (FAULTS[self.poison] if poisoned else None)
        return make() if make else decided(items, lambda item: item["subject"]["id"] != "mallory")

    async def step(self, name, value):
        match name:
            case "ask":
                names = list(value)
                self.asked.append((names, self.bench.start(*(question(*pair) for pair in names), deadline_s=30)))
            case "leave" if value < len(self.asked):
                self.asked[value][1].cancel()
            case "fault":
                self.fault = value
            case "poison":
                self.poison = value
            case "gate":
                (self.bench.transport.gate.set if value else self.bench.transport.gate.clear)()
            case "clock":
                self.bench.clock.now += value
            case "force":
                getattr(self.bench.breaker, value)()
            case "turns":
                await turns(value)

    def check(self):
        for names, task in self.asked:
            assert task.done()
            if task.cancelled():
                continue
            decisions = task.result()
            assert len(decisions) == len(names)
            for (user, _), code in zip(names, codes(decisions), strict=True):
                assert (code == "allow") <= (user != "mallory")
                assert (code == "deny") <= (user == "mallory")
        iam = self.bench.iam
        assert (iam.snapshot()["in_flight"], iam.snapshot()["queue"]) == (0, 0)
        assert (iam._pendings, iam._calls, len(iam._waiting)) == ({}, {}, 0)
        assert not self.bench.breaker.snapshot()["trial"]


async def play(steps):
    run = Run()
    for name, value in steps:
        await run.step(name, value)
    run.bench.transport.gate.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*(task for _, task in run.asked), return_exceptions=True)
    await turns(60)
    run.check()
    run.fault = run.poison = "well"
    run.bench.breaker.force_close()
    assert codes(await run.bench.decide(question("alice", "a"))) == ["allow"]
    await turns()
    await run.bench.iam.aclose()


@examples(200)
@given(st.lists(STEPS, max_size=40))
def test_nothing_is_permitted_by_mistake_and_nothing_is_left_behind(steps):
    asyncio.run(play(steps))
