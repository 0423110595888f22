"""What one method of one route asks of IAM, compiled at load so that a request only fills in values.

The route's own checks come first, then each part's; all of them are asked together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.checks import PreparedCheck
from gateway.model.permit import ALLOW, Check, Question
from gateway.model.request import Request, Subject
from gateway.model.route import (
    Access,
    AccessKind,
    AggregateAction,
    Bulk,
    IamFailureMode,
    IamFailureRule,
    Part,
    Route,
    bulk_of,
)
from gateway.template import Placeholder, RequestValues

FAIL_CLOSED = IamFailureRule()
ITEM_METHOD = "GET"
"""What an item of a bulk request is asked about as, whatever the request itself is."""
_SAFE = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class PartPlan:
    """One part of an aggregate: its checks are `checks[start:end]` of the plan. `required`: a denial refuses all."""

    name: str
    start: int
    end: int
    required: bool


class Plan:
    """The checks of one (route, method): `own` of the route itself, the rest of its parts.

    `at_least`: so many parts must be permitted, or the aggregate cannot answer. `free_parts`: what a permit says of
    the parts where nothing is asked at all.
    """

    __slots__ = ("_static", "at_least", "checks", "free_parts", "kind", "own", "parts", "route", "rule")

    def __init__(self, route: Route, method: str, *, own: Sequence[PreparedCheck], parts: Sequence[Part]) -> None:
        self.route = route
        self.kind = route.access[method].kind
        self.rule = _rule(route.on_iam_failure.get(method, FAIL_CLOSED), method)
        self.own = len(own)
        self.checks = tuple(own)
        self.parts: tuple[PartPlan, ...] = ()
        for part in parts:
            self._add(part)
        self.free_parts = tuple((part.name, ALLOW) for part in parts) if not self.checks else ()
        self.at_least = route.action.require if isinstance(route.action, AggregateAction) else 0
        static = tuple(check.static for check in self.checks if check.static is not None)
        self._static = static if len(static) == len(self.checks) else None

    def _add(self, part: Part) -> None:
        start = len(self.checks)
        self.checks += _prepared(part.access)
        self.parts += (PartPlan(part.name, start, len(self.checks), part.required),)

    def questions(self, request: Request, subject: Subject) -> list[Question]:
        """One question a check, in the order of `checks`. Raises `bad_request` for an unusable value."""
        return [Question(subject, check) for check in self._static or self._filled(request, subject)]

    def _filled(self, request: Request, subject: Subject) -> list[Check]:
        value = RequestValues(request, self.route.id, self.route.path, subject)
        return [check.fill(value) for check in self.checks]


Plans = tuple[dict[str, dict[str, Plan]], dict[str, Plan | None]]
"""By route: the plan of every method, and what each item of a bulk route asks."""


def plans_by_route(routes: Sequence[Route]) -> Plans:
    """The plans of all routes. Only computes, so it may run in a thread."""
    return {route.id: plans_of(route) for route in routes}, {route.id: item_plan_of(route, routes) for route in routes}


def plans_of(route: Route) -> dict[str, Plan]:
    """The plan of every method that the route allows."""
    bulk = bulk_of(route)
    parts = route.action.parts if isinstance(route.action, AggregateAction) and bulk is None else ()
    # Of a bulk route, checks that name the item's parameter are asked per item, the others once for the request.
    wanted = (lambda check: not _names(bulk, check)) if bulk else (lambda _: True)
    own: dict[
        int, tuple[PreparedCheck, ...]
    ] = {}  # by identity: methods nearly always share one, and preparing is slow
    for access in route.access.values():
        if id(access) not in own:
            own[id(access)] = _chosen(access, wanted)
    return {method: Plan(route, method, own=own[id(access)], parts=parts) for method, access in route.access.items()}


def item_plan_of(route: Route, routes: Sequence[Route]) -> Plan | None:
    """What each item of a bulk route asks: the checks that name the item, and those of the parts.

    An item is asked about as on the single route, which is why the plan is that route's.
    """
    bulk = bulk_of(route)
    if bulk is None or not isinstance(route.action, AggregateAction):
        return None
    single = next((one for one in routes if one.action is route.action and one is not route), route)
    method = ITEM_METHOD if ITEM_METHOD in single.access else min(single.access)
    own = _chosen(route.access["POST"], lambda check: _names(bulk, check))
    return Plan(single, method, own=own, parts=route.action.parts)


def _rule(rule: IamFailureRule, method: str) -> IamFailureRule:
    # `allow` for methods other than GET and HEAD fails closed here too, even if the configuration has it.
    return FAIL_CLOSED if rule.mode is IamFailureMode.ALLOW and method not in _SAFE else rule


def _names(bulk: Bulk, check: PreparedCheck) -> bool:
    return Placeholder("path", bulk.param) in check.placeholders


def _chosen(access: Access, wanted: Callable[[PreparedCheck], bool]) -> tuple[PreparedCheck, ...]:
    return tuple(check for check in _prepared(access) if wanted(check))


def _prepared(access: Access | None) -> tuple[PreparedCheck, ...]:
    if access is None or access.kind is not AccessKind.CHECKS:
        return ()
    if not access.checks:
        raise ValueError("an empty list of checks would permit everything")
    return tuple(map(PreparedCheck, access.checks))
