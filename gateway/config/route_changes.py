"""Routes that ask less, or answer more when IAM can't, than what their targets were answered by before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Final, NamedTuple

from gateway.config.values import format_duration
from gateway.model.route import (
    AccessKind,
    AggregateAction,
    CheckTemplate,
    Cors,
    IamFailureMode,
    IamFailureRule,
    NavigationAction,
    Route,
    Segment,
)
from gateway.model.settings import Configuration, IntrospectionIdentity, JwtIdentity, OpaqueIdentity, TokenIn
from gateway.routing import Router
from gateway.template import Placeholder, Template

# One difference between two configurations, in words.

EVERYWHERE: Final = "every route"


class Said(NamedTuple):
    """What became weaker: the field of the model that it is about, and the words for it."""

    field: str
    text: str


Lines = Iterator[Said]


@dataclass(frozen=True, slots=True)
class Change:
    """`where`: a route's id, `every route`, or a section of the file. `field`: the key that it is about.

    `unjudged`: it may permit more, and nothing here can tell.
    """

    where: str
    field: str
    text: str
    weaker: bool = False
    unjudged: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


# Which route a target belonged to, and which it belongs to now: found by targets that stand for all others.
#
# Two routes can meet without one covering the other (`/{tenant}/admin` and `/acme/*`), and which of them has a target
# is decided segment by segment. So both routers are asked, about the most general targets that two routes share.

Pair = tuple[Route | None, Route | None]
"""The route that a target belonged to, and the one that it belongs to now."""


def moved(old: Sequence[Route], new: Sequence[Route]) -> list[Pair]:
    """Every pair of routes of which the second has taken targets from the first (None: nobody has, or had them)."""
    before, after = Router(old), Router(new)
    changed = _changed(old, new)
    pairs: dict[tuple[str, str], Pair] = {}
    for path, host in _targets(changed, [*old, *new]):
        was, is_ = before.owner(path, host), after.owner(path, host)
        if was is not None or is_ is not None:
            pairs.setdefault((was.id if was else "", is_.id if is_ else ""), (was, is_))
    return list(pairs.values())


def _changed(old: Sequence[Route], new: Sequence[Route]) -> list[Route]:
    """The routes that are not the same in both. Where they stand in the file does not matter."""
    before, after = ({route.id: replace(route, location="") for route in routes} for routes in (old, new))
    return [
        route
        for routes, others in ((old, after), (new, before))
        for route in routes
        if others.get(route.id) != replace(route, location="")
    ]


def _targets(changed: Sequence[Route], routes: Sequence[Route]) -> Iterable[tuple[tuple[str, ...], str]]:
    """Segments and host of the targets that each changed route shares with each other one, and of its own."""
    taken = {segment.literal for route in routes for segment in route.segments}
    name = next(name for name in ("x", "any", *(f"x{number}" for number in range(len(taken) + 1))) if name not in taken)
    longest = max((len(route.segments) for route in routes), default=0) + 1
    found: dict[tuple[tuple[str, ...], str], None] = {}
    for one, other in product(changed, routes):
        if one.host and other.host and one.host != other.host:
            continue
        for path in _shared(one.segments, other.segments, name, longest):
            found.update(dict.fromkeys((path, host) for host in {one.host or "", other.host or ""}))
    return found


def _shared(one: tuple[Segment, ...], other: tuple[Segment, ...], name: str, longest: int) -> Iterator[tuple[str, ...]]:
    """The most general paths that both match, with `name` for what may be anything."""
    path: list[str] = []
    mine, theirs = _endless(one, longest), _endless(other, longest)
    for at in range(longest + 1):
        here, there = mine[at], theirs[at]
        if (here is None or here.rest) and (there is None or there.rest):
            more = longest - len(path) if here and there else 0
            yield from ((*path, *[name] * count) for count in range(more + 1))
            return
        if here is None or there is None:
            return
        literals = {segment.literal for segment in (here, there) if segment.literal is not None}
        if len(literals) > 1:
            return
        path.append(next(iter(literals), name))


def _endless(segments: tuple[Segment, ...], longest: int) -> list[Segment | None]:
    """The segments, the closing `*` repeated, or None where the path is over."""
    rest = segments[-1] if segments and segments[-1].rest else None
    return [*segments, *[rest] * (longest + 1 - len(segments))]


# Routes that ask less, or answer more when IAM can't, than what their targets were answered by before.
#
# A route is compared with the one of the same id, and with each one that it takes targets from. An added route that
# asks for checks of its own is a decision, not a weakening; one that asks less than the route whose targets it takes
# is.

_STRICT: Final = (AccessKind.PUBLIC, AccessKind.AUTHENTICATED, AccessKind.CHECKS)
_GRANTS: Final = (
    IamFailureMode.FAIL_CLOSED,
    IamFailureMode.STALE,
    IamFailureMode.LOCAL,
    IamFailureMode.FALLBACK,
    IamFailureMode.ALLOW,
)
_ADMITTED: Final = ("allow_encoded_slashes", "allow_empty_segments", "allow_path_parameters", "forward_token")


def routes_weakened(old: Configuration, new: Configuration) -> Iterator[Change]:
    """What of the routes is weaker, by the route's id."""
    before = {route.id: route for route in old.routes}
    after = {route.id for route in new.routes}
    cookies = _by_cookie(new)
    for route in new.routes:
        if route.id in before:
            yield from _as(route.id, "", (*_route(before[route.id], route), *_cors(before[route.id], route, cookies)))
    for was, is_ in moved(old.routes, new.routes):
        if was is None or is_ is None or was.id == is_.id:
            continue
        if was.id not in after:
            yield from _as(was.id, f"is gone, {is_.id} takes its path: ", _route(was, is_))
        else:
            taken = "" if is_.id not in before else f"takes targets of {was.id}: "
            yield from _as(is_.id, taken, _added(was, is_))


def _as(where: str, before: str, lines: Lines | tuple[Said, ...]) -> Iterator[Change]:
    return (Change(where, said.field, before + said.text, weaker=True) for said in lines)


def _route(old: Route, new: Route) -> Lines:
    for method in _told(new):
        was = old.access.get(method)
        if was is None:
            yield Said("methods", f"{method} is allowed")
            continue
        yield from _access(method, old, new)
    yield from _rules(old, new)
    yield from _parts(old, new)
    yield from _navigation(old, new)
    yield from _flags(old, new)


def _added(old: Route, new: Route) -> Lines:
    """A route that takes targets of another: its checks may be other ones, but not fewer."""
    for method in _told(new):
        was, is_ = old.access.get(method), new.access[method]
        if was is None:
            continue
        if _STRICT.index(is_.kind) < _STRICT.index(was.kind) or _fewer(method, old, new):
            yield from _access(method, old, new)
    yield from _rules(old, new)
    yield from _flags(old, new)


def _told(route: Route) -> list[str]:
    """The methods to tell of. HEAD is as GET wherever it has no checks of its own."""
    return [method for method in sorted(route.methods) if method != "HEAD" or not _as_get(route)]


def _as_get(route: Route) -> bool:
    return (
        route.access.get("GET") == route.access["HEAD"]
        and route.on_iam_failure.get("GET") == route.on_iam_failure["HEAD"]
    )


def _access(method: str, old: Route, new: Route) -> Lines:
    was, is_ = old.access[method], new.access[method]
    if _STRICT.index(is_.kind) < _STRICT.index(was.kind):
        yield Said("access", f"{method} is {is_.kind}, was {was.kind}")
    elif lost := _lost(was.checks, old, is_.checks, new):
        yield Said("access", f"{method} no longer asks {', '.join(lost)}")


def _lost(old: Sequence[CheckTemplate], old_route: Route, new: Sequence[CheckTemplate], new_route: Route) -> list[str]:
    kept = [_meaning(check, new_route) for check in new]
    return [check.source for check in old if _meaning(check, old_route) not in kept]


def _fewer(method: str, old: Route, new: Route) -> bool:
    """Whether `new` asks nothing that `old` did not, and less."""
    was, is_ = old.access[method].checks, new.access[method].checks
    return bool(_lost(was, old, is_, new)) and not _lost(is_, new, was, old)


def _meaning(check: CheckTemplate, route: Route) -> CheckTemplate:
    """The check without the way it was written.

    `{path.NAME}` is the segment that has this name in this route, and `{route.id}` is the id: the same text can ask
    something else after a route is given another path or id, and another text the same.
    """
    places = {segment.param: str(at) for at, segment in enumerate(route.segments) if segment.param is not None}
    own = {"route.id": route.id, "route.path": route.path}

    def part(value: str | Placeholder) -> str | Placeholder:
        if isinstance(value, str):
            return value
        if value.kind == "path":
            return replace(value, name=places.get(value.name, value.name))
        return own.get(value.kind, value)

    def tree(value: Any) -> Any:
        if isinstance(value, Template):
            return _joined(map(part, value.parts))
        if isinstance(value, Mapping):
            return {name: tree(member) for name, member in value.items()}
        return [tree(member) for member in value] if isinstance(value, list) else value

    return replace(
        check, action=tree(check.action), resource=tree(check.resource), context=tree(check.context), source=""
    )


def _joined(parts: Iterable[str | Placeholder]) -> tuple[str | Placeholder, ...]:
    """Neighbouring texts as one."""
    found: list[str | Placeholder] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, str) and isinstance(last, str):
            found[-1] = last + part
        else:
            found.append(part)
    return tuple(found)


def _rules(old: Route, new: Route) -> Lines:
    for method in _told(new):
        if method in old.on_iam_failure:
            yield from _rule(method, old.on_iam_failure[method], new.on_iam_failure[method])


def _rule(method: str, old: IamFailureRule, new: IamFailureRule) -> Lines:
    if _GRANTS.index(new.mode) > _GRANTS.index(old.mode):
        yield Said("on_iam_failure", f"{method} is {new.mode} while IAM can't answer, was {old.mode}")
    elif new.mode is old.mode and new.max_stale_s > old.max_stale_s:
        longer, before = format_duration(new.max_stale_s), format_duration(old.max_stale_s)
        yield Said("on_iam_failure", f"{method} is stale for up to {longer}, was {before}")


def _flags(old: Route, new: Route) -> Lines:
    for name in _ADMITTED:
        if getattr(new, name) and not getattr(old, name):
            yield Said(name, f"{name} is on")
    if old.recheck_s and (new.recheck_s or float("inf")) > old.recheck_s:
        yield Said("recheck_s", "open streams are checked less often")


def _cors(old: Route, new: Route, cookies: bool) -> Lines:  # one of three things that are compared
    """Pages of other origins that may use the caller's credentials."""
    if new.cors is None or not (new.cors.credentials or cookies):
        return
    was = old.cors or Cors(origins=frozenset())
    if more := sorted(new.cors.origins - was.origins):
        yield Said("cors", f"pages of {', '.join(more)} may use the caller's credentials")
    elif new.cors.credentials and not was.credentials:
        yield Said("cors", "pages of other origins may use the caller's credentials")


def _by_cookie(configuration: Configuration) -> bool:
    """Whether a cookie can be the token: then `cors` says which origins may send it."""
    identity = configuration.identity
    if not isinstance(identity, JwtIdentity | IntrospectionIdentity | OpaqueIdentity):
        return False
    return any(place.kind is TokenIn.COOKIE for place in identity.places)


def _parts(old: Route, new: Route) -> Lines:
    """Systems of an aggregate that are asked with less, also under another name or without the aggregate."""
    if not isinstance(old.action, AggregateAction):
        return
    guarded = [part for part in old.action.parts if part.access is not None and part.access.checks]
    if not isinstance(new.action, AggregateAction):
        if guarded:
            names = ", ".join(part.name for part in guarded)
            yield Said("action", f"the checks of {names} are gone with the aggregate")
        return
    by_name = {part.name: part for part in old.action.parts}
    by_place = {(part.upstream, part.method, part.path): part for part in guarded}
    for part in new.action.parts:
        was = by_name.get(part.name) or by_place.get((part.upstream, part.method, part.path))
        asked = () if part.access is None else part.access.checks
        lost = _lost(was.access.checks, old, asked, new) if was and was.access else []
        if lost:
            yield Said("action", f"{part.name} no longer asks {', '.join(lost)}")


def _navigation(old: Route, new: Route) -> Lines:
    if not isinstance(old.action, NavigationAction):
        return
    if not isinstance(new.action, NavigationAction):
        yield Said("action", f"items are no longer checked by {old.action.check.source}")
        return
    if _lost([old.action.check], old, [new.action.check], new):
        yield Said("action", f"items are no longer checked by {old.action.check.source}")
    if old.action.items != new.action.items:
        yield Said("action", f"items at {old.action.items} are no longer checked")
    if old.action.remove_denied and not new.action.remove_denied:
        yield Said("action", "denied items are shown")
