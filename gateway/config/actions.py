"""What a route does with a permit: exactly one of forwarding, aggregate, navigation, permissions, health."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from gateway.config.access import Scope, compile_check
from gateway.config.aggregate import check_upstream, compile_aggregate
from gateway.config.compile_context import CompileContext
from gateway.config.paths import DEFAULT, READING, params, parse_pointer, parse_prefix
from gateway.config.problems import nearest
from gateway.config.resilience import CallKeys
from gateway.config.route_keys import NavigationKeys, RouteKeys
from gateway.config.validate import Section
from gateway.model.route import (
    Action,
    DecideAction,
    HealthAction,
    NavigationAction,
    PermissionsAction,
    ProxyAction,
    Segment,
)

M = TypeVar("M", bound=CallKeys)
DECIDE: Final = "decide"
"""The kind of a route that names none of KINDS: another proxy forwards what the decision listener permits."""
KINDS: Final = ("upstream", "aggregate", "navigation", "permissions", "health")
_POSTING: Final = frozenset({"POST"})
_ANSWERED: Final[Mapping[str, frozenset[str]]] = {
    "aggregate": READING,
    "navigation": READING,
    "permissions": _POSTING,
    "health": READING,
}
_ONLY_FORWARDING: Final = (
    "strip_prefix",
    "preserve_host",
    "rewrite_redirects",
    "recheck",
    "stream_idle_timeout",
    "stream_content_types",
)
_ONLY_ANSWERING: Final = ("server_timing",)
_ONLY_WITH_UPSTREAM: Final = ("timeout", "retry", "circuit_breaker", "failure_statuses", "on_upstream_failure")


def kind_of(section: Section[RouteKeys], world: CompileContext) -> str | None:
    """Which of KINDS the route is, or DECIDE, or None with what is wrong noted."""
    given = [kind for kind in KINDS if section.has(kind)]
    if len(given) == 1:
        _check_misplaced(section, given[0], world)
        return given[0]
    if not given and _misspelt(section):
        return None
    if not given and world.decisions:
        _check_misplaced(section, DECIDE, world)
        return DECIDE
    expected = "exactly one of upstream, aggregate, navigation, permissions and health is needed"
    if not given:
        expected += ", or server.decisions for a route that another proxy forwards"
    mark = section.key(given[1]) if given else section.at()
    world.problems.error(mark, "one-kind", expected + (f"; here are {' and '.join(given)}" if given else ""))
    return None


def _misspelt(section: Section[RouteKeys]) -> bool:
    """Whether an unknown key, told as such already, was meant to say the kind."""
    unknown = [str(path[0]) for path in section.broken if len(path) == 1 and path[0] not in RouteKeys.model_fields]
    return any(nearest(name, KINDS) for name in unknown)


def _check_misplaced(section: Section[RouteKeys], kind: str, world: CompileContext) -> None:
    wrong = list(_ONLY_FORWARDING) if kind != "upstream" else []
    if kind in ("permissions", "health", DECIDE):
        wrong += _ONLY_WITH_UPSTREAM
    if kind == DECIDE:
        wrong += _ONLY_ANSWERING
    for name in wrong:
        if section.has(name):
            other = "without one" if kind == DECIDE else f"with {kind}"
            message = f"{name} is only for routes with an upstream, not {other}"
            world.problems.error(section.key(name), "misplaced-key", message)


def default_methods(kind: str | None) -> frozenset[str]:
    """What a route of this kind allows where it does not say."""
    return _ANSWERED.get(kind or "", DEFAULT)


def check_methods_of_kind(section: Section[RouteKeys], kind: str | None, world: CompileContext) -> None:
    """Notes methods that a route of this kind has no answer for."""
    answered = _ANSWERED.get(kind or "")
    for index, method in enumerate(section.keys.methods or ()):
        if answered is not None and method not in answered:
            message = f"{kind} answers {' and '.join(sorted(answered))} only"
            world.problems.error(section.at("methods", index), "misplaced-method", message)


def compile_action(
    section: Section[RouteKeys],
    kind: str,
    calls: Section[M],
    segments: tuple[Segment, ...] | None,
    world: CompileContext,
) -> Action | None:
    """The action, or None where it can't be had; what is wrong is noted."""
    keys = section.keys
    if kind == "upstream":
        return _proxy(section, segments, world)
    if kind == DECIDE:
        return DecideAction()
    if keys.aggregate is not None:
        return compile_aggregate(section, keys.aggregate, calls, segments, world)
    if keys.navigation is not None:
        return _navigation(section, keys.navigation, segments, world)
    if keys.permissions is not None:
        return PermissionsAction(max_items=keys.permissions.max_items)
    return HealthAction() if kind == "health" else None


def _proxy(
    section: Section[RouteKeys], segments: tuple[Segment, ...] | None, world: CompileContext
) -> ProxyAction | None:
    keys = section.keys
    if keys.upstream is None:
        return None
    check_upstream(section, ("upstream",), keys.upstream, world)
    prefix = None
    if keys.strip_prefix is not None and segments is not None:
        mark = section.at("strip_prefix")
        prefix = world.attempt(mark, "bad-prefix", lambda text: parse_prefix(text, segments), keys.strip_prefix)
    return ProxyAction(
        upstream=keys.upstream,
        strip_prefix=prefix,
        preserve_host=keys.preserve_host,
        rewrite_redirects=keys.rewrite_redirects,
    )


def _navigation(
    section: Section[RouteKeys], keys: NavigationKeys, segments: tuple[Segment, ...] | None, world: CompileContext
) -> NavigationAction | None:
    check_upstream(section, ("navigation", "upstream"), keys.upstream, world)
    mark = section.at("navigation", "items")
    pointer = world.attempt(mark, "bad-pointer", parse_pointer, keys.items)
    if pointer == ():
        world.problems.error(mark, "bad-pointer", "the items are below the document, like /systems/*/menus/*")
    scope = Scope(None if segments is None else params(segments), world.identity).for_items()
    check = compile_check(keys.check, section.at("navigation", "check"), scope, world)
    if check is None:
        return None
    return NavigationAction(
        upstream=keys.upstream, items=keys.items, check=check, remove_denied=keys.on_denied == "remove"
    )
