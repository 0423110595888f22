"""What does not go together on one route, and what serves but should be known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.config.compile.methods import SAFE
from gateway.config.compile.world import World
from gateway.config.keys.resilience import PolicyKeys
from gateway.config.keys.routes import RouteKeys
from gateway.config.units import format_duration
from gateway.config.validate import Section
from gateway.model.route import (
    Access,
    AccessKind,
    DecideAction,
    IamFailureMode,
    IamFailureRule,
    Route,
    UpstreamFailureMode,
    UpstreamFailureRule,
)


def check_access(section: Section[RouteKeys], access: Mapping[str, Access], world: World) -> None:
    """Notes what needs a subject, or a check, where there is none."""
    kind = next((kind for kind in ("navigation", "permissions") if section.has(kind)), None)
    if kind is not None and _public(access):
        message = f"{kind} asks IAM what the caller may do, and on a public route nobody is identified"
        world.problems.error(section.at("authorize"), "public-route", message)
    asked = any(each.kind is AccessKind.CHECKS for each in access.values())
    if section.keys.recheck is not None and access and not asked:
        message = "there is nothing to recheck: no method has checks"
        world.problems.error(section.key("recheck"), "misplaced-key", message)


def check_copies(
    section: Section[RouteKeys], access: Mapping[str, Access], rules: Mapping[str, UpstreamFailureRule], world: World
) -> None:
    """Notes copies of answers to callers that nobody identified."""
    public = [method for method in _public(access) if rules[method].mode is UpstreamFailureMode.STALE]
    if public:
        path = "on_upstream_failure" if section.has("on_upstream_failure") else "policy"
        message = f"copies are kept by subject, and {', '.join(public)} is public: nobody is identified"
        world.problems.error(section.at(path), "public-route", message)


def check_decided_elsewhere(section: Section[RouteKeys], route: Route, world: World) -> None:
    """Notes an answer of the gateway's own on a route whose answers another proxy gives."""
    rules = route.on_iam_failure.values()
    if isinstance(route.action, DecideAction) and any(rule.mode is IamFailureMode.FALLBACK for rule in rules):
        path = "on_iam_failure" if section.has("on_iam_failure") else "policy"
        message = "another proxy forwards this route, and cannot give the answer of `degrade: fallback`"
        world.problems.error(section.at(path), "misplaced-rule", message)


def warn_access(
    section: Section[RouteKeys], access: Mapping[str, Access], rules: Mapping[str, IamFailureRule], world: World
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


def warn_deadline(policy: Section[PolicyKeys], deadline_s: float, world: World) -> None:
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
