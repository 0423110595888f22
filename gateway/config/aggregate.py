"""`aggregate` → AggregateAction: parts, what must answer, comparisons, bulk.

Rules: every name stands for a system of the route; a part's own keys go over the route's; members of the answer can't
share a name; the caller's credentials are not part of a part, so nothing here can send them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, TypeVar

from gateway.config.access import Scope, compile_checks, compile_template, filling
from gateway.config.compile_context import CompileContext
from gateway.config.failure_rules import check_rules, upstream_rules
from gateway.config.paths import params, parse_path, parse_pointer
from gateway.config.policies import overlay
from gateway.config.problems import near, quoted
from gateway.config.resilience import CallKeys, compile_resilience
from gateway.config.route_keys import AggregateKeys, BulkKeys, CompareKeys, PartKeys, RouteKeys
from gateway.config.tree import Path
from gateway.config.validate import Section
from gateway.model.route import (
    Access,
    AccessKind,
    AggregateAction,
    Bulk,
    Comparison,
    Part,
    Resilience,
    Segment,
    UpstreamFailureMode,
    UpstreamFailureRule,
)
from gateway.template import Template, parse_json_text

M = TypeVar("M", bound=CallKeys)
_TOP: Final = "aggregate"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\Z")
_MEMBERS: Final = frozenset(
    {
        "systems_checked",
        "systems_available",
        "systems_failed",
        "systems_denied",
        "systems_stale",
        "failures",
        "complete",
        "discrepancy_count",
        "discrepancies",
        "data",
        "degraded",
        "denied",
        "error",
    }
)
_UNFIT: Final = re.compile(r"[^\x21-\x7e]|[#\\]")


def compile_aggregate(
    section: Section[RouteKeys],
    keys: AggregateKeys,
    calls: Section[M],
    segments: tuple[Segment, ...] | None,
    world: CompileContext,
) -> AggregateAction:
    """The action of an aggregate route; what is wrong is noted. `calls`: the route's own keys over its policy's."""
    names = tuple(section.node.get(_TOP, "systems").members()) if section.has(_TOP, "systems") else ()  # type: ignore[union-attr] # it has
    require = _require(section, keys, names, world)
    scope = Scope(None if segments is None else params(segments), world.identity)
    echo = scope.path_params or ()
    parts = tuple(
        _part(section, name, part, calls, scope, name in require, world) for name, part in keys.systems.items()
    )
    _check_found_fields(section, keys, echo, world)
    return AggregateAction(
        parts=parts,
        require=len(require) if require else _least(section, keys, names, world),
        compare=tuple(_comparison(section, i, each, names, world) for i, each in enumerate(keys.compare)),
        include_data=keys.include is not None,
        unknown_as_false=keys.unknown_as_false,
        bulk=None if keys.bulk is None else _bulk(section, keys.bulk, segments, world),
        echo=echo,
    )


def _require(
    section: Section[RouteKeys], keys: AggregateKeys, names: Iterable[str], world: CompileContext
) -> frozenset[str]:
    if not isinstance(keys.require, list):
        return frozenset()
    for index, name in enumerate(keys.require):
        _check_known(section, (_TOP, "require", index), name, names, world)
    return frozenset(map(str, keys.require))


def _least(section: Section[RouteKeys], keys: AggregateKeys, names: tuple[str, ...], world: CompileContext) -> int:
    least = keys.require if isinstance(keys.require, int) else 1
    if least > len(names) and section.sound(_TOP, "systems"):
        message = f"{least} answers can't come from {len(names)} systems"
        world.problems.error(section.at(_TOP, "require"), "out-of-range", message)
    return least


def _check_known(
    section: Section[RouteKeys], path: Path, name: str, names: Iterable[str], world: CompileContext
) -> None:
    if name not in names:
        message = f"there is no system {quoted(name)} in this aggregate{near(name, names)}"
        world.problems.error(section.at(*path), "unknown-system", message)


def _part(
    section: Section[RouteKeys],
    name: str,
    keys: PartKeys,
    calls: Section[M],
    scope: Scope,
    required: bool,  # it becomes a field
    world: CompileContext,
) -> Part:
    path = (_TOP, "systems", name)
    if not _NAME.match(name):
        message = f"{quoted(name)}: a system's name is letters, digits, '_' and '-'"
        world.problems.error(section.key(*path), "bad-name", message)
    check_upstream(section, (*path, "upstream"), keys.upstream, world)
    if keys.json_ is not None and keys.method != "POST":
        message = "json is sent by POST: say method: POST beside it"
        world.problems.error(section.key(*path, "json"), "misplaced-key", message)
    if keys.found_at is not None:
        world.attempt(section.at(*path, "found_at"), "bad-pointer", parse_pointer, keys.found_at)
    resilience, rule = _call(section, path, calls, world)
    return Part(
        name=name,
        upstream=keys.upstream,
        path=_target(section, (*path, "path"), keys.path, scope, world),
        method=str(keys.method),
        json=filling(section.at(*path, "json"), scope, world, parse_json_text)(keys.json_),
        found_field=keys.found_field,
        found_at=keys.found_at,
        access=_part_access(section, path, keys, scope, world),
        required=required,
        resilience=resilience,
        on_upstream_failure=rule,
    )


def _call(
    section: Section[RouteKeys], path: Path, calls: Section[M], world: CompileContext
) -> tuple[Resilience, UpstreamFailureRule]:
    node = section.node.get(*path)
    merged = overlay(calls.node, node, CallKeys, section.at("policy")) if node else None
    if merged is None:
        return Resilience(), UpstreamFailureRule()
    check_rules(merged, world)
    rule = upstream_rules(merged, ["GET"], world)["GET"]
    if rule.mode is UpstreamFailureMode.FALLBACK:
        if section.has(*path, "on_upstream_failure"):
            message = "a part cannot have a fallback response; the route can"
            world.problems.error(section.at(*path, "on_upstream_failure"), "misplaced-key", message)
        rule = UpstreamFailureRule()
    return compile_resilience(merged, world), rule


def _part_access(
    section: Section[RouteKeys], path: Path, keys: PartKeys, scope: Scope, world: CompileContext
) -> Access | None:
    if keys.authorize is None:
        return None
    if section.keys.authorize == "public" and section.sound("authorize"):
        message = "a public route has no subject that IAM could be asked about"
        world.problems.error(section.key(*path, "authorize"), "public-route", message)
    path = (*path, "authorize")
    return Access(AccessKind.CHECKS, compile_checks(section, path, keys.authorize, scope, world))


def check_upstream(section: Section[RouteKeys], path: Path, name: str, world: CompileContext) -> None:
    """Notes an upstream that does not exist."""
    if name not in world.upstreams and section.sound(*path):
        hint = near(name, world.upstreams) or (
            f"; known: {', '.join(sorted(world.upstreams))}" if world.upstreams else ""
        )
        world.problems.error(section.at(*path), "unknown-upstream", f"there is no upstream {quoted(name)}{hint}")


def _target(section: Section[RouteKeys], path: Path, text: str, scope: Scope, world: CompileContext) -> Template:
    mark = section.at(*path)
    template = compile_template(text, mark, scope, world)
    literal = "".join(part if isinstance(part, str) else "x" for part in template.parts)
    dotted = any(segment in (".", "..") for segment in literal.partition("?")[0].split("/"))
    if not literal.startswith("/") or literal.startswith("//") or dotted or _UNFIT.search(literal):
        message = "a system's path starts with / and is printable ASCII without spaces, #, \\ and dot segments"
        world.problems.error(mark, "bad-path", message)
    return template


def _check_found_fields(
    section: Section[RouteKeys], keys: AggregateKeys, echo: tuple[str, ...], world: CompileContext
) -> None:
    taken = dict.fromkeys((*_MEMBERS, *echo), "the answer has a member of this name already")
    for name, part in keys.systems.items():
        if part.found_field is not None and part.found_field in taken:
            mark = section.at(_TOP, "systems", name, "found_field")
            world.problems.error(mark, "same-name", f"{quoted(part.found_field)}: {taken[part.found_field]}")
        elif part.found_field is not None:
            taken[part.found_field] = f"{name} has the same found_field"


def _comparison(
    section: Section[RouteKeys], index: int, keys: CompareKeys, names: Iterable[str], world: CompileContext
) -> Comparison:
    for name, pointer in keys.values.items():
        path = (_TOP, "compare", index, "values", name)
        if name not in names:
            message = f"there is no system {quoted(name)} in this aggregate{near(name, names)}"
            world.problems.error(section.key(*path), "unknown-system", message)
        world.attempt(section.at(*path), "bad-pointer", parse_pointer, pointer)
    return Comparison(field=keys.field, severity=keys.severity, values=dict(keys.values))


def _bulk(
    section: Section[RouteKeys], keys: BulkKeys, segments: tuple[Segment, ...] | None, world: CompileContext
) -> Bulk | None:
    world.attempt(section.at(_TOP, "bulk", "items"), "bad-pointer", parse_pointer, keys.items)
    own = world.attempt(section.at(_TOP, "bulk", "path"), "bad-path", parse_path, keys.path)
    if segments is not None:
        _check_bulk_param(section, keys.param, segments, world)
    if own is None:
        return None
    if segments is not None and keys.param in params(segments):
        _check_bulk_path(section, keys, segments, own, world)
    return Bulk(
        path=keys.path,
        segments=own,
        items=keys.items,
        param=keys.param,
        max_items=keys.max_items,
        concurrency=keys.concurrency,
    )


def _check_bulk_param(
    section: Section[RouteKeys], param: str, segments: tuple[Segment, ...], world: CompileContext
) -> None:
    names = params(segments)
    if param not in names:
        message = f"the path has no parameter {{{param}}}{near(param, names)}"
        world.problems.error(section.at(_TOP, "bulk", "param"), "unknown-param", message)


def _check_bulk_path(
    section: Section[RouteKeys],
    keys: BulkKeys,
    segments: tuple[Segment, ...],
    own: tuple[Segment, ...],
    world: CompileContext,
) -> None:
    mark = section.at(_TOP, "bulk", "path")
    missing = set(params(segments)) - {keys.param} - set(params(own))
    if missing:
        message = f"the bulk path lacks the parameter {', '.join(sorted(missing))} of the route's path"
        world.problems.error(mark, "unknown-param", message)
    if keys.param in params(own):
        world.problems.error(mark, "unknown-param", f"{{{keys.param}}} comes from the items, not from the bulk path")
