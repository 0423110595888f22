"""One run: a gateway, its IAM, its origins, its callers, and the promises that are checked while they meet.

What is known of the world is a model of a few lines: who is sick since when, what IAM said of whom, when each request
must have an outcome. `Broken` names the promise that did not hold.
"""

from __future__ import annotations

import asyncio
import functools
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.admin.recent import Recent
from gateway.app import running
from gateway.app.running import Gateway
from gateway.config import ConfigurationError, load
from gateway.model.settings import Configuration
from gateway.telemetry.observer import Observer
from tests.simulation.actors import Iam, Origin
from tests.simulation.loop import SimulatedLoop

THRESHOLD, DEADLINE_S, OPEN_S, PROBE_S = 3, 2.0, 4.0, 1.0
SLACK_S = 0.2  # the end of a deadline is told in ticks
MAX_STALE_S = 60.0
IAM_PORT, GOOD_PORT, PAIR_PORTS = 1001, 2001, (3001, 3002)
CALL = f"deadline: {DEADLINE_S}s, timeout: {{connect: 200ms, read: 300ms}}, retry: {{attempts: 2, backoff: 10ms}}"
CIRCUIT = f"circuit_breaker: {{failure_threshold: {THRESHOLD}, open_for: {OPEN_S}s}}"
ROUTES = f"""
version: 1
server: {{listen: "127.0.0.1:1", trusted_proxies: [127.0.0.0/8], max_concurrency: 60}}
iam:
  url: "http://127.0.0.1:{IAM_PORT}"
  timeout: {{connect: 200ms, read: 400ms, total: TOTAL}}
  retry: {{attempts: 2, backoff: 10ms}}
  circuit_breaker: {{failure_threshold: {THRESHOLD}, open_for: {OPEN_S}s, open_for_max: 8s, probe: {PROBE_S}s}}
  batch: {{max_size: 4}}
  max_concurrency: 3
  cache: {{ttl: TTL}}
identity: {{header: {{name: X-User}}}}
upstreams:
  good: {{url: "http://127.0.0.1:{GOOD_PORT}", max_connections: CONNECTIONS, max_pending: 40}}
  pair: {{urls: ["http://127.0.0.1:{PAIR_PORTS[0]}", "http://127.0.0.1:{PAIR_PORTS[1]}"]}}
routes:
  - {{id: closed, path: "/closed/{{item}}", upstream: good, authorize: ["read x:{{path.item}}"], {CALL}, {CIRCUIT}}}
  - {{id: stale, path: "/stale/{{item}}", upstream: good, authorize: ["read x:{{path.item}}"], {CALL}, {CIRCUIT},
     on_iam_failure: {{degrade: stale, max_stale: 60s}}, on_upstream_failure: {{degrade: stale, max_stale: 60s}}}}
  - {{id: open, path: "/open/{{item}}", upstream: good, authorize: ["read x:{{path.item}}"], {CALL}, {CIRCUIT},
     on_iam_failure: {{degrade: allow, acknowledge_fail_open: true}}}}
  - {{id: public, path: "/public/{{item}}", upstream: good, authorize: public, {CALL}, {CIRCUIT}}}
  - {{id: pair, path: "/pair/{{item}}", upstream: pair, authorize: ["read x:{{path.item}}"], {CALL}, {CIRCUIT}}}
"""
USUAL = {"TOTAL": "900ms", "TTL": "0s", "CONNECTIONS": "3"}
CHANGES: dict[str, dict[str, str]] = {
    "usual": {},
    "ttl": {"TTL": "5s"},
    "iam": {"TOTAL": "800ms"},
    "upstreams": {"CONNECTIONS": "2"},
    "broken": {"TTL": "soon"},
}
TTL_S = 5.0
GOOD_ROUTES = ("closed", "stale", "open", "public")


class Broken(AssertionError):
    """A promise did not hold."""


@functools.cache
def configuration(change: str) -> Configuration | ConfigurationError:
    text = ROUTES
    for name, value in (USUAL | CHANGES[change]).items():
        text = text.replace(name, value)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "routes.yaml"
        file.write_text(text)
        try:
            return load(file, {})
        except ConfigurationError as error:
            return error


class Ears(Observer):
    """Hears what the gateway tells, and objects."""

    def __init__(self, world: World) -> None:
        self.world = world

    def circuit(self, name: str, kind: str, before: str, after: str, reason: str) -> None:
        self.world.log("circuit", name, before, after, reason)
        if before == "closed" and after == "open":
            self.world.opened(name, reason)

    def bug(self, where: str, error: BaseException) -> None:
        self.world.wrong("nothing is a bug", where, repr(error))


class Told:
    """The telemetry of this gateway."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer


@dataclass
class Answer:
    """What a caller got. `whole`: it ended as an answer ends."""

    status: int = 0
    code: str = ""
    body: bytes = b""
    degraded: bool = False
    whole: bool = False
    aborted: bool = False


class Edge:
    """The listener's side of one request."""

    host = "gateway"

    def __init__(self, target: str, answer: Answer) -> None:
        self.raw_target = target.encode()
        self.client_left = False
        self.answer = answer

    def respond(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        self.start(status, headers)
        self.answer.body, self.answer.whole = body, True
        return True

    def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.answer.status = status
        self.answer.degraded = any(name == b"x-gateway-degraded" for name, _ in headers)

    def abort(self) -> None:
        self.answer.aborted = True

    def close_after_response(self) -> None:
        pass


class World:
    """Everybody, and what is known of them."""

    def __init__(self, loop: SimulatedLoop, seed: int, trace: list[str] | None = None) -> None:
        self.loop, self.seed, self.trace = loop, seed, trace
        self.chance = random.Random(seed)  # noqa: S311 - a seed that replays
        self.iam = Iam(self.chance, self.log)
        self.good = Origin("good", self.chance, self.log, self.seen)
        self.pair = [Origin(f"pair{number}", self.chance, self.log, self.seen) for number in (1, 2)]
        loop.actors = {IAM_PORT: self.iam, GOOD_PORT: self.good, **dict(zip(PAIR_PORTS, self.pair, strict=True))}
        self.number = 0
        self.last_reload_s = 0.0
        self.many_s = 0.0  # when IAM was last at fault without being sick
        self.problems: list[str] = []
        self.tasks: list[asyncio.Task[Answer | None]] = []
        self.edges: list[Edge] = []
        self.ordered: set[str] = set()  # breakers that an operator touched
        first = configuration("usual")
        assert isinstance(first, Configuration)
        self.gateway = Gateway(first, Told(Ears(self)), lambda changed: changed, Recent(loop.time, loop.wall))

    def log(self, *what: Any) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.loop.now - 1000:9.3f} " + " ".join(str(each) for each in what))

    def wrong(self, promise: str, *about: Any) -> None:
        self.log("BROKEN:", promise, *about)
        self.problems.append(f"{promise}: {' '.join(str(each) for each in about)}")

    def check(self) -> None:
        if self.problems:
            raise Broken(self.problems[0])

    # what may be forwarded

    def seen(self, origin: Origin, target: str, user: str) -> None:
        """An origin was reached: was there a permit?"""
        _, route, item = target.split("/")
        self.log(origin.name, "hears", target, "of", user or "nobody")
        if route == "public" or (user, item) in self.iam.permitted:
            self._not_too_old(route, user, item)
            return
        sick = self.iam.sick_within(OPEN_S * 2 + PROBE_S + DEADLINE_S) or self.loop.now - self.many_s < OPEN_S * 2
        if route == "open" and user and (sick or self.iam.fails_many()):
            return  # the rule that IAM's own failure allows
        self.wrong("nothing is forwarded without a permit", target, "of", user)

    def _not_too_old(self, route: str, user: str, item: str) -> None:
        if route in {"closed", "pair"}:
            age_s = self.loop.now - self.iam.permitted[user, item]
            if age_s > TTL_S + DEADLINE_S:
                self.wrong("a permit is as fresh as the route wants it", route, user, item, age_s)

    # whose circuit may open

    def opened(self, name: str, reason: str) -> None:
        if name in self.ordered:
            return
        sick_s = DEADLINE_S + 1.0
        servers = {"iam": [self.iam], "pair": self.pair}.get(name, [self.good])
        if any(server.sick_within(sick_s) for server in servers):
            return
        if name == "iam" and self.iam.fails_many():
            self.many_s = self.loop.now
            return
        if name != "iam" and all(server.only_spoilt(name) for server in servers):
            return
        self.wrong("a healthy dependency's circuit never opens", name, reason)

    # callers

    def start(self, *about: Any) -> asyncio.Task[Answer | None]:
        task = self.loop.create_task(self.ask(*about))
        self.tasks.append(task)
        return task

    async def ask(self, route: str, user: str, item: str, method: str, leaves_s: float | None) -> Answer | None:
        """The answer, None if the caller left."""
        answer = Answer()
        target = f"/{route}/{item}"
        edge = Edge(target, answer)
        self.log("asks", method, target, user, "leaves after", leaves_s)
        began_s = self.loop.now
        serving = self.loop.create_task(self._serve(edge, method, user))
        if leaves_s is not None:
            await self._leave_after(leaves_s, serving)
            if not serving.done():
                edge.client_left = True
                serving.cancel()
                self.log("leaves", target, user)
                await asyncio.wait([serving], timeout=DEADLINE_S)
                if not serving.done():
                    self.wrong("who leaves holds nothing", target, user)
                return None
        else:
            await asyncio.wait([serving], timeout=2 * DEADLINE_S)
        took_s = self.loop.now - began_s
        self.log("has", answer.status, answer.body[:40], target, user, f"{took_s:.3f} s")
        if took_s > DEADLINE_S + SLACK_S:
            self.wrong("an outcome by the deadline", target, user, took_s)
        if serving.done() and serving.exception() is not None:
            self.wrong("nothing escapes the pipeline", repr(serving.exception()))
        self._judge(answer, target, user, item)
        if user not in {"trudy", "mallory"}:
            self._judge_service(answer, route, method, began_s)
        return answer

    async def _leave_after(self, seconds: float, serving: asyncio.Task[None]) -> None:
        """Until then, or until it is served; in any of the turns of the loop in which an answer arrives."""
        await asyncio.wait([serving], timeout=seconds)
        for _ in range(self.chance.randrange(5)):
            if not serving.done():
                await asyncio.sleep(0)

    def _judge_service(self, answer: Answer, route: str, method: str, began_s: float) -> None:
        """Nobody who does nothing wrong pays for others: another's 429, or one sick origin of two."""
        others_fault = b":upstream_circuit_open" in answer.body and route not in {"public", "pair"}
        if others_fault and self.state(route) == "closed" and not self.good.sick_within(40.0):
            self.wrong("one caller's quota holds back nobody else", route, answer.body[-120:])
        failed = answer.status in {502, 504} or answer.body in {b"busy", b"oops"}
        if failed and method == "GET" and route in GOOD_ROUTES and not self.good.sick_within(DEADLINE_S + 1.0):
            self.wrong("a well origin fails nobody", route, answer.status, answer.body[-120:])
        if failed and method == "GET" and route == "pair":
            well = [each for each in self.pair if not each.fault and each.well_since_s < began_s - OPEN_S * 2]
            if well and self.loop.now - self.last_reload_s > DEADLINE_S:
                self.wrong("one well origin of two is enough", answer.status, answer.body[-120:])

    async def _serve(self, edge: Edge, method: str, user: str) -> None:
        answer = edge.answer
        body = [b"x" * 20, b"y" * 20] if method == "POST" else []
        fields = [(b"host", b"gateway"), (b"x-user", user.encode())]
        if body:
            fields.append((b"content-length", b"40"))

        async def receive() -> dict[str, Any]:
            part = body.pop(0) if body else b""
            return {"type": "http.request", "body": part, "more_body": bool(body)}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                edge.start(message["status"], message["headers"])
            else:
                answer.body += message.get("body", b"")
                answer.whole = not message.get("more_body", False)

        scope = {
            "type": "http",
            "method": method,
            "headers": fields,
            "client": ("127.0.0.1", 1),
            "scheme": "http",
            "http_version": "1.1",
            "extensions": {"gateway.edge": edge},
        }
        await self.gateway.pipeline(scope, receive, send)

    def _judge(self, answer: Answer, target: str, user: str, item: str) -> None:
        if answer.status == 500 and b"oops" not in answer.body:
            self.wrong("nothing that a client sends causes a 500", target, user)
        if answer.status == 403 and (user, item) not in self.iam.denied:
            self.wrong("403 means that a policy said no", target, user)
        if not (answer.whole or answer.aborted):
            self.wrong("an answer ends or is broken off", target, user, answer)
        if answer.status == 200 and answer.whole and not answer.aborted and answer.body != b"echo " + target.encode():
            self.wrong("who asks gets the whole of his own answer", target, user, answer.body)

    # operators

    async def reload(self, change: str) -> None:
        found = configuration(change)
        self.last_reload_s = self.loop.now

        def loaded(*_: Any) -> Configuration:
            if isinstance(found, ConfigurationError):
                raise found
            return found

        original, running.load = running.load, loaded
        try:
            done, problems = await self.gateway.reload()
        finally:
            running.load = original
        if done != (change != "broken"):
            self.wrong("a reload is all or nothing", change, problems)

    async def operate(self, name: str, mode: str) -> None:
        self.ordered.add(name)
        await self.gateway.force_breaker(name, mode)
        if mode != "auto":
            await self.gateway.force_breaker(name, "auto")
            self.gateway.composition.breakers[name].force_close()
            self.gateway.composition.breakers[name].auto()
        self.ordered.discard(name)

    def busy(self) -> list[str]:
        """What is still taken, in words."""
        composition = self.gateway.composition
        site = composition.site
        taken: dict[str, Any] = {"site": site.in_flight, "limit": site.limit.in_use, "streams": site.streams.in_use}
        taken |= {f"limit of {route}": service.limit.in_use for route, service in site.services.items()}
        iam = composition.iam.snapshot()
        taken |= {"calls": iam["in_flight"], "queue": iam["queue"], "questions": len(composition.iam._pendings)}
        for upstream in composition.upstreams.values():
            for origin in upstream.snapshot()["origins"]:
                taken |= {name: origin[name] for name in ("in_flight", "connecting", "pending")}
        taken |= {f"trial of {name}": breaker.snapshot()["trial"] for name, breaker in composition.breakers.items()}
        taken |= {"retired": len(self.gateway._retired), "closing": len(self.gateway._closing)}
        return [f"{name}: {count}" for name, count in taken.items() if count]

    def state(self, name: str) -> str:
        return self.gateway.composition.breakers[name].state
