"""Which route a target belonged to, and which it belongs to now: found by targets that stand for all others.

Two routes can meet without one covering the other (`/{tenant}/admin` and `/acme/*`), and which of them has a target is
decided segment by segment. So both routers are asked, about the most general targets that two routes share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product

from gateway.model.route import Route, Segment
from gateway.routing import Router

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
