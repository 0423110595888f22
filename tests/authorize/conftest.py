"""What the tests of step 3 share: an IAM that answers what it is told, and short ways to say routes and requests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

from gateway.authorize import Authorizer, DecisionCache
from gateway.errors import GatewayError
from gateway.model.permit import ALLOW, DENY, Decision, Question, unknown
from gateway.model.request import AccessRecord, Request, Subject, Target
from gateway.model.route import Access, AccessKind, CheckTemplate, IamFailureRule, ProxyAction, Route
from gateway.model.settings import CacheSettings
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import NO_SPAN, Observer
from gateway.template import parse


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def check(text: str) -> CheckTemplate:
    """The short form `"<action> <type>:<id>"`."""
    action, _, resource = text.partition(" ")
    kind, _, name = resource.partition(":")
    return CheckTemplate({"name": parse(action)}, {"type": parse(kind), "id": parse(name)}, None, text)


def checks(*texts: str) -> Access:
    return Access(AccessKind.CHECKS, tuple(map(check, texts)))


PUBLIC = Access(AccessKind.PUBLIC)
AUTHENTICATED = Access(AccessKind.AUTHENTICATED)


def route(access: Access, rule: IamFailureRule | None = None, **changed: Any) -> Route:
    """A route on which every method asks the same."""
    methods = changed.pop("methods", frozenset({"GET", "HEAD", "POST", "DELETE"}))
    settings: dict[str, Any] = {
        "id": "inventory",
        "path": "/inventory/*",
        "segments": (),
        "action": ProxyAction(upstream="inventory"),
        "on_upstream_failure": {},
    }
    settings.update(changed)
    return Route(
        methods=methods,
        access=dict.fromkeys(methods, access),
        on_iam_failure=dict.fromkeys(methods, rule or IamFailureRule()),
        **settings,
    )


def request(method: str = "GET", target: bytes = b"/inventory/7", **changed: Any) -> Request:
    path, _, query = target.partition(b"?")
    settings: dict[str, Any] = {
        "headers": [],
        "host": "gateway.example",
        "scheme": "http",
        "peer": "127.0.0.1",
        "client": "127.0.0.1",
        "trusted": False,
        "request_id": "r-1",
    }
    settings.update(changed)
    segments = tuple(path.decode().strip("/").split("/"))
    return Request(method=method, target=Target(target, path, query, segments), **settings)


def subject(name: str = "alice", **changed: Any) -> Subject:
    document = f'{{"type":"identity","id":"{name}"}}'
    return Subject(type="identity", id=name, key=f"identity:{document}", document=document, **changed)


def fault(code: str = "iam_circuit_open", *, isolated: bool = False) -> Decision:
    return unknown(GatewayError(code, retry_after_s=7), isolated=isolated)


@dataclass
class FakeIam:
    """Answers by the check's fragment or else with `default`; `asked` holds every call's questions."""

    default: Decision = ALLOW
    answers: dict[str, Decision] = field(default_factory=dict)
    asked: list[list[Question]] = field(default_factory=list)
    before: Callable[[], None] = lambda: None

    async def decide(
        self, questions: Sequence[Question], *, deadline: Deadline, request_id: str, span: object
    ) -> list[Decision]:
        self.asked.append(list(questions))
        self.before()
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Decision:
        name = f"{question.check.action['name']} {question.check.resource['type']}:{question.check.resource['id']}"
        return self.answers.get(name, self.default)

    async def aclose(self) -> None:
        """Nothing to close."""


class Recorder(Observer):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.decisions: list[tuple[str, str, str, str]] = []
        self.cached: list[str] = []
        self.modes: list[tuple[str, str]] = []

    def decided(self, route: str, outcome: str, code: str, source: str, duration_s: float) -> None:
        self.decisions.append((route, outcome, code, source))

    def cache(self, result: str) -> None:
        self.cached.append(result)

    def degraded(self, route: str, mode: str) -> None:
        self.modes.append((route, mode))


@dataclass
class Bench:
    """One Authorizer over fakes."""

    iam: FakeIam = field(default_factory=FakeIam)
    local: FakeIam = field(default_factory=FakeIam)
    clock: Clock = field(default_factory=Clock)
    wall: Clock = field(default_factory=lambda: Clock(1_700_000_000.0))
    observer: Recorder = field(default_factory=Recorder)
    settings: CacheSettings = field(default_factory=CacheSettings)
    record: AccessRecord = field(default_factory=lambda: AccessRecord(started_s=0.0))

    def __post_init__(self) -> None:
        self.cache = DecisionCache(self.settings, clock=self.clock, wall=self.wall)

    def authorizer(self, *routes: Route) -> Authorizer:
        return Authorizer(
            self.iam, routes, local=self.local, cache=self.cache, observer=self.observer, clock=self.clock
        )

    async def ask(
        self, a_route: Route, a_request: Request | None = None, who: Subject | None = None, **more: Any
    ) -> Any:
        """One request authorized: the permit, or the error raised."""
        return await self.authorizer(a_route).authorize(
            a_request or request(),
            a_route,
            who or subject(),
            more.get("deadline", Deadline.after(5)),
            self.record,
            NO_SPAN,
        )


ALLOWED, DENIED = ALLOW, DENY


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    """The helpers of this file."""
    return sys.modules[__name__]
