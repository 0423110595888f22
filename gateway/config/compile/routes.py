"""One entry of `routes` → one Route, and a second one for an aggregate's bulk path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from gateway.config.addresses import host_name
from gateway.config.compile.access import Authorization, access_by_method, compile_authorization
from gateway.config.compile.actions import DECIDE, check_methods_of_kind, compile_action, default_methods, kind_of
from gateway.config.compile.checks import Scope
from gateway.config.compile.cors import compile_cors
from gateway.config.compile.error_page import compile_error_page
from gateway.config.compile.failure_rules import check_rules, iam_rules, upstream_rules
from gateway.config.compile.fingerprint import fingerprint
from gateway.config.compile.methods import allowed, check_method
from gateway.config.compile.paths import params, parse_path
from gateway.config.compile.resilience import compile_resilience
from gateway.config.compile.route_checks import (
    check_access,
    check_copies,
    check_decided_elsewhere,
    warn_access,
    warn_deadline,
)
from gateway.config.compile.world import World
from gateway.config.keys.resilience import PolicyKeys
from gateway.config.keys.routes import RouteKeys
from gateway.config.policies import overlay, policy_of
from gateway.config.validate import Section
from gateway.model.route import Access, Action, AggregateAction, Route, Segment

_SAME_NAME: Final = (
    "policy",
    "server_timing",
    "forward_token",
    "allow_encoded_slashes",
    "allow_empty_segments",
    "allow_path_parameters",
)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What the keys of one route come to, as far as they were right."""

    segments: tuple[Segment, ...] | None
    authorization: Authorization | None
    access: Mapping[str, Access]
    host: str | None
    policy: Section[PolicyKeys]


def compile_route(section: Section[RouteKeys], world: World) -> list[Route]:
    """The routes of one entry; empty where something was wrong, which was then noted."""
    kind = kind_of(section, world)
    drawn = _draw(section, kind, world)
    if drawn is None:
        return []
    action = None
    if kind is not None and (kind == DECIDE or section.sound(kind)):
        action = compile_action(section, kind, drawn.policy, drawn.segments, world)
    route = _route(section, drawn, action or _NOTHING, world)
    _check(section, drawn, route, world)
    if drawn.segments is None or drawn.authorization is None or action is None:
        return []
    return [route, *_bulk(route, drawn.authorization, drawn.policy, world)]


_NOTHING: Final = AggregateAction(parts=())


def _draw(section: Section[RouteKeys], kind: str | None, world: World) -> _Drawn | None:
    keys = section.keys
    segments = world.attempt(section.at("path"), "bad-path", parse_path, keys.path) if section.sound("path") else None
    scope = Scope(None if segments is None else params(segments), world.identity)
    methods = _methods(section, kind, world)
    authorization = compile_authorization(section, scope, world) if section.sound("authorize") else None
    host = None if keys.host is None else world.attempt(section.at("host"), "bad-host", host_name, keys.host)
    home = section.at("policy") if section.has("policy") else section.at()
    base = policy_of(section, keys.policy, world.policies, world.problems)
    policy = overlay(base, section.node, PolicyKeys, home)
    access = _access(section, methods, authorization, world)
    return None if policy is None else _Drawn(segments, authorization, access, host, policy)


def _route(section: Section[RouteKeys], drawn: _Drawn, action: Action, world: World) -> Route:
    keys, policy = section.keys, drawn.policy.keys
    return Route(
        id=keys.id,
        path=keys.path,
        segments=drawn.segments or (),
        action=action,
        methods=frozenset(drawn.access),
        access=drawn.access,
        on_iam_failure=iam_rules(drawn.policy, drawn.access, world),
        on_upstream_failure=upstream_rules(drawn.policy, drawn.access, world),
        host=drawn.host,
        deadline_s=policy.deadline or world.deadline_s,
        resilience=compile_resilience(drawn.policy, world),
        max_body=world.max_body if policy.max_body is None else policy.max_body,
        max_concurrency=keys.max_concurrency or max(1, world.max_concurrency // 2),
        cors=None if keys.cors is None else compile_cors(section, keys.cors, world),
        error_page=compile_error_page(section, keys.error_page, world),
        recheck_s=keys.recheck,
        stream_idle_timeout_s=keys.stream_idle_timeout,
        stream_content_types=tuple(keys.stream_content_types),
        location=str(section.at()),
        fingerprint=fingerprint(keys.id, drawn.access, action),
        **{name: getattr(keys, name) for name in _SAME_NAME},
    )


def _check(section: Section[RouteKeys], drawn: _Drawn, route: Route, world: World) -> None:
    check_rules(drawn.policy, world)
    check_decided_elsewhere(section, route, world)
    check_access(section, route.access, world)
    check_copies(section, route.access, route.on_upstream_failure, world)
    warn_access(section, route.access, route.on_iam_failure, world)
    warn_deadline(drawn.policy, route.deadline_s, world)


def _methods(section: Section[RouteKeys], kind: str | None, world: World) -> frozenset[str] | None:
    named = section.keys.methods
    if not section.sound("methods"):
        return None
    if named is None:
        return default_methods(kind)
    known = [check_method(section.at("methods", i), str(method), world) for i, method in enumerate(named)]
    check_methods_of_kind(section, kind, world)
    return allowed(named) if all(known) else None


def _access(
    section: Section[RouteKeys], methods: frozenset[str] | None, authorization: Authorization | None, world: World
) -> Mapping[str, Access]:
    if methods is None or authorization is None:
        return {}
    return access_by_method(section, authorization, methods, world)


def _bulk(route: Route, authorization: Authorization, policy: Section[PolicyKeys], world: World) -> list[Route]:
    """The POST route of an aggregate's bulk path: the same action, asked for what POST, `*` or GET asks."""
    action = route.action
    access = authorization.of("POST", "GET")
    if not isinstance(action, AggregateAction) or action.bulk is None or access is None:
        return []
    id_, methods, by_method = f"{route.id}.bulk", ["POST"], {"POST": access}
    bulk = replace(
        route,
        id=id_,
        path=action.bulk.path,
        segments=action.bulk.segments,
        methods=frozenset(methods),
        access=by_method,
        on_iam_failure=iam_rules(policy, methods, world),
        on_upstream_failure=upstream_rules(policy, methods, world),
        fingerprint=fingerprint(id_, by_method, action),
    )
    return [bulk]
