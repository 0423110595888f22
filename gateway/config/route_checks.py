"""What does not go together, on one route or between all: ties, names that collide, upstreams that nobody uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.config.compile_context import CompileContext
from gateway.config.paths import SAFE, shape
from gateway.config.problems import Mark, Problems, quoted
from gateway.config.resilience import PolicyKeys
from gateway.config.route_keys import RouteKeys
from gateway.config.validate import Section
from gateway.config.values import format_duration
from gateway.model.route import (
    Access,
    AccessKind,
    AggregateAction,
    DecideAction,
    IamFailureMode,
    IamFailureRule,
    NavigationAction,
    ProxyAction,
    Route,
    UpstreamFailureMode,
    UpstreamFailureRule,
)

# What does not go together on one route, and what serves but should be known.


def check_access(section: Section[RouteKeys], access: Mapping[str, Access], world: CompileContext) -> None:
    """Notes what needs a subject, or a check, where there is none."""
    kind = next((kind for kind in ("navigation", "permissions") if section.has(kind)), None)
    if kind is not None and _public(access):
        message = f"{kind} asks IAM what the caller may do, and on a public route nobody is identified"
        world.problems.error(section.at("authorize"), "public-route", message)
    asked = any(each.kind is AccessKind.CHECKS for each in access.values())
    if section.keys.recheck is not None and access and not asked:
        message = "recheck has no effect: no method has checks"
        world.problems.error(section.key("recheck"), "misplaced-key", message)


def check_copies(
    section: Section[RouteKeys],
    access: Mapping[str, Access],
    rules: Mapping[str, UpstreamFailureRule],
    world: CompileContext,
) -> None:
    """Notes copies of answers to callers that nobody identified."""
    public = [method for method in _public(access) if rules[method].mode is UpstreamFailureMode.STALE]
    if public:
        path = "on_upstream_failure" if section.has("on_upstream_failure") else "policy"
        message = f"copies are kept by subject, and {', '.join(public)} is public: nobody is identified"
        world.problems.error(section.at(path), "public-route", message)


def check_decided_elsewhere(section: Section[RouteKeys], route: Route, world: CompileContext) -> None:
    """Notes an answer of the gateway's own on a route whose answers another proxy gives."""
    rules = route.on_iam_failure.values()
    if isinstance(route.action, DecideAction) and any(rule.mode is IamFailureMode.FALLBACK for rule in rules):
        path = "on_iam_failure" if section.has("on_iam_failure") else "policy"
        message = "another proxy forwards this route, and cannot give the answer of `degrade: fallback`"
        world.problems.error(section.at(path), "misplaced-rule", message)


def warn_access(
    section: Section[RouteKeys],
    access: Mapping[str, Access],
    rules: Mapping[str, IamFailureRule],
    world: CompileContext,
) -> None:
    """Warns of writing without credentials, and of failing open."""
    unsafe = [method for method in _public(access) if method not in SAFE]
    if unsafe:
        message = f"anybody may {_listed(unsafe)}: no credentials are looked at; methods: [GET] would limit it"
        world.problems.warning(section.at("authorize"), "public-writes", message)
    opened = [
        method
        for method, rule in rules.items()
        if rule.mode is IamFailureMode.ALLOW and access[method].kind is AccessKind.CHECKS
    ]
    if opened:
        path = "on_iam_failure" if section.has("on_iam_failure") else "policy"
        message = f"fails open: while IAM can't answer, every identified caller may {_listed(sorted(opened))}"
        world.problems.warning(section.at(path), "fails-open", message)


def warn_deadline(policy: Section[PolicyKeys], deadline_s: float, world: CompileContext) -> None:
    """Warns of a timeout that was written down but can't be reached before the deadline, which `write` doesn't see."""
    timeout = policy.keys.timeout
    if timeout is None or not policy.sound("timeout") or not policy.sound("deadline"):
        return
    for name, seconds in (("connect", timeout.connect), ("read", timeout.read)):
        if policy.has("timeout", name) and seconds > deadline_s:
            message = f"longer than the deadline ({format_duration(deadline_s)}), which ends the request first"
            world.problems.warning(policy.at("timeout", name), "contradiction", message)


def _public(access: Mapping[str, Access]) -> list[str]:
    return [method for method, asked in sorted(access.items()) if asked.kind is AccessKind.PUBLIC]


def _listed(methods: Iterable[str]) -> str:
    return ", ".join(methods)


# What no section can see by itself: routes that tie, names that collide, upstreams that nobody uses.


@dataclass(frozen=True, slots=True)
class Placed:
    """A compiled route, and where its id and its path (or bulk path) stand."""

    route: Route
    id: Mark
    path: Mark


def check_ids(ids: Iterable[tuple[str, Mark]], problems: Problems) -> None:
    """Notes routes with the same id."""
    first: dict[str, Mark] = {}
    for id_, mark in ids:
        if id_ in first:
            message = f"the route in line {first[id_].line} is called {quoted(id_)} too"
            problems.error(mark, "duplicate-id", message)
        first.setdefault(id_, mark)


def check_ties(placed: Sequence[Placed], problems: Problems) -> None:
    """Notes routes between which a target could not choose: the same host, the same path but for parameters' names.

    Methods do not matter: the path chooses the route, and only then the method is looked at.
    """
    first: dict[tuple[str | None, tuple[str | None, ...]], Placed] = {}
    for each in placed:
        key = (each.route.host, shape(each.route.segments))
        other = first.setdefault(key, each)
        if other is not each:
            message = (
                f"routes {quoted(other.route.id)} (line {other.path.line}) and {quoted(each.route.id)} "
                f"(line {each.path.line}) tie: {other.route.path} and {each.route.path} match the same targets"
            )
            problems.error(each.path, "tie", message)


def check_names(placed: Sequence[Placed], problems: Problems, *, shadow: bool = False) -> None:
    """Notes names of routes, parts and IAM that would share a breaker's name, and so its metrics and its controls."""
    owners = {"iam": "IAM's breaker"} | ({"iam_shadow": "the second IAM's breaker"} if shadow else {})
    for each in placed:
        for name, owner in _breaker_names(each.route):
            if name in owners and owners[name] != owner:
                message = f"{owner} would be called {quoted(name)}, like {owners[name]}"
                problems.error(each.id, "same-name", message)
            owners.setdefault(name, owner)


def _breaker_names(route: Route) -> Iterator[tuple[str, str]]:
    yield route.id, f"the route {quoted(route.id)}"
    if isinstance(route.action, AggregateAction) and not is_bulk(route):
        for part in route.action.parts:
            yield f"{route.id}.{part.name}", f"the system {quoted(part.name)} of {quoted(route.id)}"


def warn_of_short_deadlines(placed: Iterable[Placed], iam_total_s: float, problems: Problems) -> None:
    """Warns of routes that end before IAM has had its time: `iam_total_s` is `iam.timeout.total`."""
    for each in placed:
        asks = any(access.kind is AccessKind.CHECKS for access in each.route.access.values())
        if asks and each.route.deadline_s <= iam_total_s and not is_bulk(each.route):
            message = (
                f"the deadline of {quoted(each.route.id)} ({each.route.deadline_s:g}s) ends before iam.timeout.total "
                f"({iam_total_s:g}s): while IAM is slow, its requests end without its answer; make one of them fit"
            )
            problems.warning(each.id, "contradiction", message)


def warn_unused(upstreams: Iterable[tuple[str, Mark]], routes: Iterable[Route], problems: Problems) -> None:
    """Warns of upstreams that no route sends anything to."""
    used = {name for route in routes for name in upstreams_of(route)}
    for name, mark in upstreams:
        if name not in used:
            problems.warning(mark, "unused-upstream", f"no route uses the upstream {quoted(name)}")


def is_bulk(route: Route) -> bool:
    """Whether this is the bulk path of an aggregate, not its own."""
    return (
        isinstance(route.action, AggregateAction)
        and route.action.bulk is not None
        and (route.segments == route.action.bulk.segments)
    )


def upstreams_of(route: Route) -> tuple[str, ...]:
    """The upstreams that a route sends to."""
    action = route.action
    if isinstance(action, AggregateAction):
        return tuple(part.upstream for part in action.parts)
    return (action.upstream,) if isinstance(action, ProxyAction | NavigationAction) else ()
