"""What no section can see by itself: routes that tie, names that collide, upstreams that nobody uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gateway.config.compile.paths import shape
from gateway.config.problems import Mark, Problems, quoted
from gateway.model.route import AccessKind, AggregateAction, NavigationAction, ProxyAction, Route


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
