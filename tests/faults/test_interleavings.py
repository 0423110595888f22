"""Random interleavings of callers, hang-ups, faults, reloads and operators: the invariants hold, and nothing is left.

The whole gateway runs in this process behind its own listener, on real sockets, with short limits. Checked after every
run: nothing was forwarded without a permit that IAM gave for exactly that question; no answer came later than its
deadline; no place, connection or trial is missing afterwards, and everything serves again.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import uvicorn
import uvloop
from hypothesis import given

from gateway.admin.recent import Recent
from gateway.app.listeners import bind
from gateway.app.running import Gateway
from gateway.config import load
from gateway.model.settings import Address
from gateway.server import uvicorn_config
from gateway.telemetry.observer import Observer
from tests.faults.actors import (
    Actor,
    Answer,
    Caller,
    Seen,
    acting,
    as_json,
    echo,
    evaluations,
    plays,
    reply,
    until,
)
from tests.support.properties import examples

pytestmark = pytest.mark.hazard

DEADLINE_S, SLACK_S = 1.0, 4.0
ROUTES = """
version: 1
server:
  {listen: "127.0.0.1:PORT", max_concurrency: 12, trusted_proxies: [127.0.0.0/8]}
iam:
  url: "IAM"
  timeout: {connect: 200ms, read: 150ms, total: TOTAL}
  retry: {attempts: 2, backoff: 10ms}
  circuit_breaker: {failure_threshold: 2, open_for: 40ms, open_for_max: 80ms}
  batch: {max_size: 3}
  max_concurrency: 2
  max_queue: 40
identity: {header: {name: X-User}}
upstreams: {good: {url: "UPSTREAM", max_connections: CONNECTIONS, max_pending: 6}}
routes:
  - {id: closed, path: /closed, upstream: good, authorize: ["CHECK item:{query.n}"], CALL, max_concurrency: 8}
  - {id: stale, path: /stale, upstream: good, authorize: ["read system:stale"], CALL,
     on_iam_failure: {degrade: stale, max_stale: 1m}, on_upstream_failure: {degrade: stale, max_stale: 1m}}
  - {id: public, path: /public, upstream: good, authorize: public, CALL}
"""
CALL = (
    "deadline: 1s, timeout: {connect: 200ms, read: 150ms}, retry: {attempts: 2, backoff: 10ms}, "
    "circuit_breaker: {failure_threshold: 2, open_for: 40ms}"
)
USUAL = {"CHECK": "read", "TOTAL": "300ms", "CONNECTIONS": "4", "CALL": CALL}
CHANGES = {
    "usual": {},
    "checks": {"CHECK": "use"},
    "iam": {"TOTAL": "250ms"},
    "upstreams": {"CONNECTIONS": "3"},
    "broken": {"CHECK": "{nobody}"},
}
IAM_FAULTS = {
    "well": None,
    "hang": plays(end="hang"),
    "fin": plays(end="fin"),
    "500": plays(reply(b"", "500 Oops")),
    "429": plays(reply(b"", "429 Busy", "Retry-After: 1")),
    "400": plays(reply(b"", "400 Bad Request")),
    "garbage": plays(reply(b"{}")),
    "cut": plays(reply(b"{", length=100), end="fin"),
}
UPSTREAM_FAULTS = {
    "well": None,
    "hang": plays(end="hang"),
    "fin": plays(end="fin"),
    "rst": plays(end="rst"),
    "503": plays(reply(b"", "503 Oops")),
    "cut": plays(reply(b"{", length=100), end="fin"),
    "stall": plays(reply(b"{", length=100), end="hang"),
    "garbage": plays(b"garbage\r\n\r\n", end="fin"),
    "surplus": plays(reply(b"ok") + reply(b"EVIL")),
}
ASK = st.tuples(
    st.sampled_from(["closed", "closed", "stale", "public"]),
    st.sampled_from(["alice", "bob", "mallory"]),
    st.sampled_from(["GET", "GET", "POST"]),
    st.sampled_from([None, None, 0.002, 0.02, 0.1]),
)
CROWD = st.tuples(st.just("ask"), st.lists(ASK, min_size=2, max_size=6))
WAIT = st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.04, 0.08]))
STEPS = st.one_of(
    CROWD,
    WAIT,
    CROWD,
    WAIT,
    CROWD,
    WAIT,
    st.tuples(st.just("iam"), st.sampled_from(["well", *IAM_FAULTS])),
    st.tuples(st.just("deny"), st.booleans()),
    st.tuples(st.just("upstream"), st.sampled_from(["well", *UPSTREAM_FAULTS])),
    st.tuples(st.just("reload"), st.sampled_from(list(CHANGES))),
    st.tuples(st.just("operator"), st.sampled_from(["iam", "closed", "stale", "public"])),
)


class Bugs(Observer):
    """Remembers what should not have happened."""

    def __init__(self) -> None:
        self.seen: list[BaseException] = []

    def bug(self, where: str, error: BaseException) -> None:
        self.seen.append(error)


class Told:
    """The telemetry of this gateway."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer


class Listener(uvicorn.Server):
    """Takes over no signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Run:
    """One gateway, its IAM, its upstream, and what became of every request."""

    def __init__(self, folder: Path) -> None:
        self.permitted: set[tuple[str, str]] = set()
        self.denying = False
        self.iam = Actor(self._decide)
        self.upstream = Actor(echo)
        self.file = folder / "routes.yaml"
        self.listener = bind(Address("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.bugs = Bugs()
        self.number = 0
        self.asked: list[asyncio.Task[Answer | None]] = []

    def _decide(self, seen: Seen) -> bytes:
        def decide(evaluation: dict[str, Any]) -> bool:
            user = evaluation["subject"]["id"]
            permitted = user != "mallory" and not self.denying
            if permitted:
                self.permitted.add((user, evaluation["resource"]["id"]))
            return permitted

        return as_json({"evaluations": [{"decision": decide(one)} for one in evaluations(seen)]})

    def write(self, change: str) -> None:
        text = ROUTES.replace("PORT", str(self.port))
        for name, value in (USUAL | CHANGES[change]).items():
            text = text.replace(name, value)
        self.file.write_text(text.replace("IAM", self.iam.url).replace("UPSTREAM", self.upstream.url))

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        self.write("usual")
        self.gateway = Gateway(load(self.file, {}), Told(self.bugs), lambda configuration: configuration, Recent())
        listener = Listener(
            uvicorn_config(self.gateway.pipeline, self.gateway.composition.site.settings, lifespan="off", loop="none")
        )
        serving = asyncio.create_task(listener.serve(sockets=[self.listener]))

        async def started() -> bool:
            return listener.started

        await until(started)
        try:
            yield
        finally:
            listener.should_exit = True
            await serving
            await self.gateway.aclose()

    async def step(self, name: str, value: Any) -> None:
        match name:
            case "ask":
                self.asked += [asyncio.create_task(self.ask(*one)) for one in value]
            case "iam":
                self.iam.fault = IAM_FAULTS[value]
            case "deny":
                self.denying = value
            case "upstream":
                self.upstream.fault = UPSTREAM_FAULTS[value]
            case "reload":
                self.write(value)
                done, _ = await self.gateway.reload()
                assert done == (value != "broken")
            case "operator":
                await self.gateway.force_breaker(value, "open")
                await self.gateway.force_breaker(value, "auto")
        await asyncio.sleep(value if name == "wait" else 0.001)

    async def ask(self, route: str, user: str, method: str, leaves_after_s: float | None) -> Answer | None:
        """None: the caller left."""
        self.number += 1
        target = f"/{route}?n={self.number}"
        body = b"x" * 100 if method == "POST" else b""
        caller = await Caller.to(self.port)
        try:
            async with asyncio.timeout(leaves_after_s):
                return await caller.ask(target, method=method, headers={"X-User": user}, body=body)
        except TimeoutError:
            assert leaves_after_s is not None, "nothing hangs"
            return None
        finally:
            caller.abort()

    async def check(self) -> None:
        answers = [answer for task in self.asked if (answer := task.result()) is not None]
        assert not self.bugs.seen
        assert all(answer.seconds < DEADLINE_S + SLACK_S for answer in answers)
        assert not [answer for answer in answers if answer.status == 500]
        for seen in self.upstream.seen:
            route, _, number = seen.target.partition("?n=")
            if route != "/public":
                asked = number if route == "/closed" else "stale"
                assert (seen.value("x-auth-subject"), asked) in self.permitted, seen

    def busy(self) -> list[str]:
        """What is still taken, in words."""
        composition = self.gateway.composition
        site = composition.site
        taken = {"site": site.in_flight, "limit": site.limit.in_use, "streams": site.streams.in_use}
        taken |= {f"limit of {route}": service.limit.in_use for route, service in site.services.items()}
        iam = composition.iam.snapshot()
        taken |= {"calls": iam["in_flight"], "queue": iam["queue"], "questions": len(composition.iam._pendings)}
        for origin in composition.upstreams["good"].snapshot()["origins"]:
            taken |= {name: origin[name] for name in ("in_flight", "connecting", "pending")}
        taken |= {f"trial of {name}": breaker.snapshot()["trial"] for name, breaker in composition.breakers.items()}
        taken |= {"retired": len(self.gateway._retired), "closing": len(self.gateway._closing)}
        return [name for name, count in taken.items() if count]

    async def heal(self) -> None:
        self.iam.fault = self.upstream.fault = None
        self.denying = False
        await self.step("reload", "usual")

        async def idle() -> bool:
            return not self.busy()

        try:
            await until(idle)
        except TimeoutError:
            raise AssertionError(f"still taken: {self.busy()}") from None
        for route in ("closed", "stale", "public"):
            await until(lambda route=route: self._serves(route))
        assert len(self.iam.open) <= 2 + 4, "iam.max_concurrency, and four for the gateway's own questions"
        assert len(self.upstream.open) <= 4

    async def _serves(self, route: str) -> bool:
        answer = await self.ask(route, "alice", "GET", None)
        return answer is not None and answer.status == 200 and answer.degraded is None


async def play(steps: list[tuple[str, Any]], folder: Path) -> None:
    run = Run(folder)
    async with acting(run.iam, run.upstream):
        async with run.serving():
            for name, value in steps:
                await run.step(name, value)
            async with asyncio.timeout(DEADLINE_S + SLACK_S):
                await asyncio.gather(*run.asked)
            await run.heal()
            await run.check()

        async def closed() -> bool:
            return not run.iam.open and not run.upstream.open

        await until(closed)


@examples(25)
@given(st.lists(STEPS, min_size=25, max_size=40))
def test_nothing_is_forwarded_without_a_permit_nothing_hangs_and_nothing_is_left_behind(
    steps: list[tuple[str, Any]],
) -> None:
    loop = uvloop.new_event_loop
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=loop) as runner:
        runner.run(play(steps, Path(folder)))
