"""`on_iam_failure` and `on_upstream_failure` → one rule for each method of a route.

The first rule with a matching method wins; a degrade rule without `methods` means GET and HEAD, a word every method;
what no rule matches fails closed (or stays an error). `allow` never means more than GET and HEAD.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from gateway.config.compile_context import CompileContext
from gateway.config.paths import KNOWN, READING, check_method
from gateway.config.resilience import CallKeys, IamRuleKeys, PolicyKeys, ResponseKeys, UpstreamRuleKeys
from gateway.config.tree import Path
from gateway.config.validate import Section
from gateway.config.values import format_duration
from gateway.model.route import (
    FallbackResponse,
    IamFailureMode,
    IamFailureRule,
    UpstreamFailureMode,
    UpstreamFailureRule,
)

IAM: Final = "on_iam_failure"
UPSTREAM: Final = "on_upstream_failure"
C = TypeVar("C", bound=CallKeys)
_BODILESS: Final = frozenset({204, 205, 304})
_FRAMING: Final = frozenset({"content-length", "transfer-encoding", "connection", "trailer", "upgrade"})
Rule = str | IamRuleKeys | UpstreamRuleKeys


@dataclass(frozen=True, slots=True)
class _Placed:
    """A rule and where it stands. `methods` None: every method."""

    path: Path
    rule: Rule

    @property
    def methods(self) -> frozenset[str] | None:
        if isinstance(self.rule, str):
            return READING if self.rule == "stale" else None
        return READING if self.rule.methods is None else frozenset(map(str, self.rule.methods))

    @property
    def mode(self) -> str:
        return self.rule if isinstance(self.rule, str) else (self.rule.degrade or "")


def _placed(section: Section[C], name: str) -> list[_Placed]:
    value = getattr(section.keys, name, None)
    if value is None or not section.sound(name):
        return []
    if isinstance(value, list):
        return [_Placed((name, index), rule) for index, rule in enumerate(value)]
    return [_Placed((name,), value)]


def check_rules(section: Section[C], world: CompileContext) -> None:
    """Notes what is wrong with the rules of a route, a policy or a part, whatever the route."""
    for name in (IAM, UPSTREAM):
        seen: set[str] = set()
        for placed in _placed(section, name):
            _check_rule(section, placed, world)
            _check_reached(section, placed, seen, world)
            seen |= KNOWN if placed.methods is None else placed.methods


def _check_reached(section: Section[C], placed: _Placed, seen: set[str], world: CompileContext) -> None:
    if seen and seen >= (KNOWN if placed.methods is None else placed.methods) and placed.methods != frozenset():
        message = "this rule is never reached: earlier ones match all its methods"
        world.problems.warning(section.at(*placed.path), "unreachable-rule", message)


def _check_rule(section: Section[C], placed: _Placed, world: CompileContext) -> None:
    rule = placed.rule
    if isinstance(rule, str):
        if rule == "stale":
            _check_kept(section, placed, world)
        return
    for index, method in enumerate(rule.methods or ()):
        check_method(section.at(*placed.path, "methods", index), str(method), world)
    for id_, message, key in _mistakes(placed, rule, world):
        path = (*placed.path, key) if section.has(*placed.path, key) else placed.path
        mark = section.key(*path) if id_ == "misplaced-key" else section.at(*path)
        world.problems.error(mark, id_, message)


def _mistakes(
    placed: _Placed, rule: IamRuleKeys | UpstreamRuleKeys, world: CompileContext
) -> Iterator[tuple[str, str, str]]:
    """(id, message, key) of everything wrong with a rule by itself."""
    mode, methods = placed.mode, placed.methods or frozenset()
    if rule.degrade is None:
        yield "missing-key", 'the key "degrade" is missing', "degrade"
    if rule.methods is not None and not rule.methods:
        yield "empty-value", "no methods: the rule would never apply", "methods"
    if rule.max_stale is not None and mode not in ("stale", ""):
        yield "misplaced-key", f"max_stale is only for degrade: stale, not {mode}", "max_stale"
    if rule.response is not None and mode not in ("fallback", ""):
        yield "misplaced-key", f"response is only for degrade: fallback, not {mode}", "response"
    if mode == "fallback" and rule.response is None:
        yield "missing-key", 'the key "response" is missing: what to answer', "degrade"
    if rule.response is not None:
        yield from _response_mistakes(rule.response)
    if isinstance(rule, IamRuleKeys):
        yield from _iam_mistakes(rule, mode, methods, world)
    elif mode == "stale" and methods - READING:
        yield "stale-methods", "only answers to GET and HEAD are kept for degrade: stale", "methods"


def _iam_mistakes(
    rule: IamRuleKeys, mode: str, methods: frozenset[str], world: CompileContext
) -> Iterator[tuple[str, str, str]]:
    if mode == "allow" and not rule.acknowledge_fail_open:
        yield "fail-open", "degrade: allow fails open: say acknowledge_fail_open: true beside it", "degrade"
    if mode != "allow" and rule.acknowledge_fail_open:
        yield "misplaced-key", "acknowledge_fail_open is only for degrade: allow", "acknowledge_fail_open"
    if mode == "allow" and methods - READING:
        yield "fail-open-methods", "degrade: allow is only for GET and HEAD", "methods"
    if mode in ("local", "allow") and world.identity == "opaque":
        yield "opaque-identity", f"degrade: {mode} needs to know who asks, and identity is opaque", "degrade"
    if mode == "local" and not world.access_policies:
        yield "no-access-policies", "degrade: local needs policies/access/*.cedar, and there are none", "degrade"
    if mode == "stale" and world.max_stale_s is not None:
        yield from _stale_mistakes(rule, world.max_stale_s)


def _stale_mistakes(rule: IamRuleKeys, most_s: float) -> Iterator[tuple[str, str, str]]:
    if not most_s:
        yield "max-stale", "iam.cache.max_stale is 0s: no permit is remembered for degrade: stale", "degrade"
    elif rule.max_stale is not None and rule.max_stale > most_s:
        message = f"max_stale is more than iam.cache.max_stale ({format_duration(most_s)}) remembers"
        yield "max-stale", message, "max_stale"


def _response_mistakes(response: ResponseKeys) -> Iterator[tuple[str, str, str]]:
    if response.status in _BODILESS and response.json_ is not None:
        yield "bad-value", f"a {response.status} answer has no body", "response"
    for name in sorted(_FRAMING & set(response.headers)):
        yield "bad-header-name", f"{name} belongs to the connection and can't be set", "response"


def _check_kept(section: Section[C], placed: _Placed, world: CompileContext) -> None:
    if world.max_stale_s == 0:
        message = "iam.cache.max_stale is 0s: say how old an answer may be, {degrade: stale, max_stale: 5m}"
        world.problems.error(section.at(*placed.path), "max-stale", message)


def iam_rules(section: Section[PolicyKeys], methods: Iterable[str], world: CompileContext) -> dict[str, IamFailureRule]:
    """The rule for each method when IAM cannot answer."""
    placed = _placed(section, "on_iam_failure")
    return {method: _iam_rule(_first(placed, method), world) for method in methods}


def upstream_rules(
    section: Section[C], methods: Iterable[str], world: CompileContext
) -> dict[str, UpstreamFailureRule]:
    """The rule for each method when the upstream fails."""
    placed = _placed(section, "on_upstream_failure")
    return {method: _upstream_rule(_first(placed, method), world) for method in methods}


def _first(placed: list[_Placed], method: str) -> Rule | None:
    return next((each.rule for each in placed if each.methods is None or method in each.methods), None)


def _iam_rule(rule: Rule | None, world: CompileContext) -> IamFailureRule:
    if not isinstance(rule, IamRuleKeys) or rule.degrade is None:
        return IamFailureRule()
    mode = IamFailureMode(str(rule.degrade))
    stale_s = rule.max_stale or world.max_stale_s or 0.0
    return IamFailureRule(
        mode=mode,
        max_stale_s=stale_s if mode is IamFailureMode.STALE else 0.0,
        response=_response(rule.response) if mode is IamFailureMode.FALLBACK else None,
    )


def _upstream_rule(rule: Rule | None, world: CompileContext) -> UpstreamFailureRule:
    if rule == "stale":
        return UpstreamFailureRule(mode=UpstreamFailureMode.STALE, max_stale_s=world.max_stale_s or 0.0)
    if not isinstance(rule, UpstreamRuleKeys) or rule.degrade is None:
        return UpstreamFailureRule()
    mode = UpstreamFailureMode(str(rule.degrade))
    stale_s = rule.max_stale or world.max_stale_s or 0.0
    return UpstreamFailureRule(
        mode=mode,
        max_stale_s=stale_s if mode is UpstreamFailureMode.STALE else 0.0,
        response=_response(rule.response) if mode is UpstreamFailureMode.FALLBACK else None,
    )


def _response(keys: ResponseKeys | None) -> FallbackResponse | None:
    if keys is None:
        return None
    headers = [(name.encode(), value.encode()) for name, value in keys.headers.items()]
    if keys.status in _BODILESS:
        return FallbackResponse(keys.status, b"", tuple(headers))
    if "content-type" not in keys.headers:
        headers.insert(0, (b"content-type", b"application/json"))
    body = json.dumps(keys.json_, ensure_ascii=False, separators=(",", ":")).encode()
    return FallbackResponse(keys.status, body, tuple(headers))
