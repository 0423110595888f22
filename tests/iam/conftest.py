"""An IAM in memory whose answers a test decides, and one client of it on a clock that stands still."""

import asyncio
import json

import httpx
import pytest

from gateway.checks import make_check
from gateway.iam.build import build_iam
from gateway.model.permit import Outcome, Question
from gateway.model.request import Subject
from gateway.model.route import BreakerPolicy, RetryPolicy
from gateway.model.settings import IamSettings
from gateway.resilience.breaker import Breaker
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import NO_SPAN, Observer

URL = "http://iam.test:8181"
PROBE = ["gateway:iam"]


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Memory(Observer):
    """Remembers what it was told."""

    def __init__(self):
        self.calls, self.queue, self.circuits, self.retries, self.bugs, self.hedges = [], [], [], [], [], []
        self.closed = asyncio.Event()

    def iam_call_started(self, size, links, operation=""):
        self.links = list(links)
        return NO_SPAN

    def iam_call_ended(self, span, size, code, duration_s, status, server):
        self.calls.append((size, code))

    def iam_queue(self, waiting):
        self.queue.append(waiting)

    def iam_hedged(self, result):
        self.hedges.append(result)

    def circuit(self, name, kind, before, after, reason):
        self.circuits.append((before, after, reason))
        if after == "closed":
            self.closed.set()

    def retry(self, target, attempt, attempts, code):
        self.retries.append((target, attempt, attempts, code))

    def bug(self, where, error):
        self.bugs.append((where, error))


def answer(status=200, document=None, headers=(), body=None):
    """An HTTP reply of IAM."""
    content = json.dumps(document).encode() if body is None else body
    return httpx.Response(status, headers=[*headers], stream=Chunks(content))


class Chunks(httpx.AsyncByteStream):
    """A body in parts of a few bytes."""

    def __init__(self, content):
        self.content = content
        self.closed = False

    async def __aiter__(self):
        for start in range(0, len(self.content), 7):
            yield self.content[start : start + 7]

    async def aclose(self):
        self.closed = True


def decided(evaluations, permitted=lambda item: True):
    """The AuthZEN reply to these evaluations."""
    return answer(document={"evaluations": [{"decision": permitted(item)} for item in evaluations]})


class Transport(httpx.AsyncBaseTransport):
    """IAM in memory. `reply(evaluations)` makes the response; while `gate` is closed nobody is answered.

    The gateway's own harmless question is counted in `probes` and not in `batches`.
    """

    def __init__(self):
        self.requests, self.batches = [], []
        self.probes = 0
        self.in_flight = self.most_in_flight = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.reply = decided

    async def handle_async_request(self, request):
        self.requests.append(request)
        asked = json.loads(request.content or b"{}")
        evaluations = asked.get("evaluations", [])
        batch = [item["subject"]["id"] + ":" + item["resource"]["id"] for item in evaluations]
        if batch == PROBE:
            self.probes += 1
        elif "evaluations" in asked:
            self.batches.append(batch)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
            made = self.reply(evaluations)
            if isinstance(made, Exception):
                raise made
            return made
        finally:
            self.in_flight -= 1


class Bench:
    """One client with everything around it, and ways of asking."""

    def __init__(self, **settings):
        defaults = {
            "urls": (URL,),
            "retry": RetryPolicy(attempts=2, backoff_s=0.0),
            "breaker": BreakerPolicy(failure_threshold=5, open_for_s=5.0, open_for_max_s=60.0),
        }
        self.settings = IamSettings(**(defaults | settings))
        self.transport = Transport()
        self.clock = Clock()
        self.memory = Memory()
        self.breaker = Breaker("iam", "iam", self.settings.breaker, observer=self.memory, clock=self.clock)
        self.iam = build_iam(
            self.settings, http=[self.transport], breaker=self.breaker, observer=self.memory, clock=self.clock
        )

    async def decide(self, *questions, deadline_s=5.0, request_id="r-1"):
        deadline = Deadline.after(deadline_s)
        return await self.iam.decide(questions, deadline=deadline, request_id=request_id, span=NO_SPAN)

    def start(self, *questions, **options):
        """Ask in a task of its own."""
        return asyncio.create_task(self.decide(*questions, **options))


def question(subject="alice", resource="inventory", *, opaque=False, context=None):
    key = f"token:{hash(subject)}" if opaque else f"identity:{subject}"
    kind = "token" if opaque else "identity"
    document = json.dumps({"type": kind, "id": subject}, ensure_ascii=False, separators=(",", ":"))
    who = Subject(kind, subject, key, document, identified=not opaque)
    return Question(who, make_check({"name": "read"}, {"type": "system", "id": resource}, context))


async def turns(count=20):
    """Let everything that can run, run."""
    for _ in range(count):
        await asyncio.sleep(0)


def outcomes(decisions):
    return [decision.outcome for decision in decisions]


def codes(decisions):
    return [decision.fault.code if decision.fault else decision.outcome.value for decision in decisions]


def allowed(decisions):
    return all(decision.outcome is Outcome.ALLOW for decision in decisions)


@pytest.fixture
async def make_bench():
    benches = []

    def make(**settings):
        benches.append(Bench(**settings))
        return benches[-1]

    yield make
    for bench in benches:
        bench.transport.gate.set()
        await bench.iam.aclose()
        assert bench.iam.snapshot()["in_flight"] == 0
        assert bench.iam._pendings == {}


@pytest.fixture
async def bench(make_bench):
    return make_bench()
