"""`routes` → one frozen Route each, with its CORS, its error page and the fingerprint of what IAM is asked for it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gateway.config.access import Authorization, Scope, access_by_method, compile_authorization
from gateway.config.actions import DECIDE, check_methods_of_kind, compile_action, default_methods, kind_of
from gateway.config.compile_context import CompileContext
from gateway.config.failure_rules import check_rules, iam_rules, upstream_rules
from gateway.config.paths import allowed, check_method, params, parse_path
from gateway.config.policies import overlay, policy_of
from gateway.config.resilience import PolicyKeys, compile_resilience
from gateway.config.route_checks import check_access, check_copies, check_decided_elsewhere, warn_access, warn_deadline
from gateway.config.route_keys import CorsKeys, ErrorPageKeys, RouteKeys
from gateway.config.validate import Section
from gateway.config.values import host_name
from gateway.model.route import (
    ALWAYS_EXPOSED,
    Access,
    Action,
    AggregateAction,
    Cors,
    ErrorPage,
    NavigationAction,
    Route,
    Segment,
)


def fingerprint(id_: str, access: Mapping[str, Access], action: Action) -> str:
    """Changes when the checks of a route, of its parts or of its items change."""
    parts = [id_, *(_asked(method, access[method]) for method in sorted(access))]
    if isinstance(action, AggregateAction):
        parts += [_asked(part.name, part.access) for part in action.parts]
    if isinstance(action, NavigationAction):
        parts += [action.items, action.check.source]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _asked(name: str, access: Access | None) -> str:
    return f"{name} {access.kind} {[check.source for check in access.checks]}" if access else f"{name} -"


# `cors` → Cors: origins as a browser sends them (RFC 6454, Fetch standard).

_KNOWN: Final = frozenset(name.lower() for name in ALWAYS_EXPOSED)
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?\Z")


def compile_cors(section: Section[RouteKeys], keys: CorsKeys, world: CompileContext) -> Cors:
    """What cross-origin callers may do; what is wrong is noted."""
    origins = frozenset(origin.lower() for origin in keys.origins)
    for index, origin in enumerate(keys.origins):
        mark = section.at("cors", "origins", index)
        if origin == "*" and len(origins) > 1:
            world.problems.error(mark, "bad-origin", "* must be the only origin")
        elif origin != "*" and not _ORIGIN.match(origin.lower()):
            message = "an origin is scheme://host or scheme://host:port, without a slash at its end"
            world.problems.error(mark, "bad-origin", message)
    if keys.credentials and "*" in origins:
        message = "credentials can't be allowed to every origin: name them"
        world.problems.error(section.at("cors", "credentials"), "cors-credentials", message)
    exposed = ", ".join(dict.fromkeys((*ALWAYS_EXPOSED, *(name for name in keys.expose if name not in _KNOWN))))
    return Cors(origins=origins, max_age_s=keys.max_age, credentials=keys.credentials, exposed=exposed.encode("ascii"))


# `error_page` → ErrorPage: the file read and checked, its placeholders found, its styles allowed by their hash.
#
# Rules: the page may only show what the gateway itself says. It loads nothing and runs no script: the policy sent
# with it forbids both, and a page that counts on them is a mistake at load. A page without `{refresh}` gets it in its
# head, so that every page reloads itself.

MAX_BYTES: Final = 256 * 1024
_BUILT_IN: Final = (Path(__file__).parent / "builtin" / "error.html").read_text()
_NAMES: Final = ("status", "title", "detail", "retry_after", "request_id", "refresh")
_PLACEHOLDER: Final = re.compile(r"\{(" + "|".join(_NAMES) + r")\}")
_STYLE: Final = re.compile(r"<style[^>]*>(.*?)</style\s*>", re.IGNORECASE | re.DOTALL)
_HEAD: Final = re.compile(r"<head(?:\s[^>]*)?>|\A\s*<!doctype[^>]*>", re.IGNORECASE)
_ACTIVE: Final = re.compile(r"<(script|link|iframe|object|embed|base|form)\b", re.IGNORECASE)
_RULES: Final = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def compile_error_page(
    section: Section[RouteKeys], keys: ErrorPageKeys | None, world: CompileContext
) -> ErrorPage | None:
    """The page; None where the route has none. What is wrong is noted."""
    if keys is None:
        return None
    if keys.html is None:
        return _page(_BUILT_IN)
    mark = section.at("error_page", "html")
    text = world.files.read_text(mark, keys.html)
    if text is None:
        return None
    message = _unfit(text)
    if message is not None:
        world.problems.error(mark, "bad-page", f"{keys.html}: {message}")
    return _page(text)


def _unfit(text: str) -> str | None:
    size = len(text.encode())
    if size > MAX_BYTES:
        return f"the page has {size} bytes; at most {MAX_BYTES} are sent with an error"
    if not text.strip():
        return "the page is empty"
    active = _ACTIVE.search(text)
    if active is not None:
        return f"<{active[1].lower()}> does not work here: the page loads nothing, runs nothing and sends nothing"
    if any(_PLACEHOLDER.search(style) for style in _STYLE.findall(text)):
        return "a placeholder can't stand inside <style>"
    return None


def _page(text: str) -> ErrorPage:
    if "{refresh}" not in text:
        head = next(reversed(list(_HEAD.finditer(text))), None)
        at = 0 if head is None else head.end()
        text = f"{text[:at]}{{refresh}}{text[at:]}"
    # A browser reads CRLF as LF before it compares the hash (HTML section 13.2.3.5).
    styles = {_hash(style.replace("\r\n", "\n").replace("\r", "\n")) for style in _STYLE.findall(text)}
    allowed = f"; style-src {' '.join(sorted(styles))}" if styles else ""
    return ErrorPage(tuple(_PLACEHOLDER.split(text)), f"{_RULES}{allowed}".encode("ascii"))


def _hash(style: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode('ascii')}'"


# One entry of `routes` → one Route, and a second one for an aggregate's bulk path.

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


def compile_route(section: Section[RouteKeys], world: CompileContext) -> list[Route]:
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


def _draw(section: Section[RouteKeys], kind: str | None, world: CompileContext) -> _Drawn | None:
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


def _route(section: Section[RouteKeys], drawn: _Drawn, action: Action, world: CompileContext) -> Route:
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


def _check(section: Section[RouteKeys], drawn: _Drawn, route: Route, world: CompileContext) -> None:
    check_rules(drawn.policy, world)
    check_decided_elsewhere(section, route, world)
    check_access(section, route.access, world)
    check_copies(section, route.access, route.on_upstream_failure, world)
    warn_access(section, route.access, route.on_iam_failure, world)
    warn_deadline(drawn.policy, route.deadline_s, world)


def _methods(section: Section[RouteKeys], kind: str | None, world: CompileContext) -> frozenset[str] | None:
    named = section.keys.methods
    if not section.sound("methods"):
        return None
    if named is None:
        return default_methods(kind)
    known = [check_method(section.at("methods", i), str(method), world) for i, method in enumerate(named)]
    check_methods_of_kind(section, kind, world)
    return allowed(named) if all(known) else None


def _access(
    section: Section[RouteKeys],
    methods: frozenset[str] | None,
    authorization: Authorization | None,
    world: CompileContext,
) -> Mapping[str, Access]:
    if methods is None or authorization is None:
        return {}
    return access_by_method(section, authorization, methods, world)


def _bulk(
    route: Route, authorization: Authorization, policy: Section[PolicyKeys], world: CompileContext
) -> list[Route]:
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
