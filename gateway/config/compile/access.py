"""`authorize` → what each method of a route asks for.

By method one key applies: the method's own, for HEAD also GET's, else `"*"`. A method with none is a mistake, and an
empty list too: nothing is ever permitted because nothing was asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.config.compile.checks import Scope, compile_check
from gateway.config.compile.methods import check_method
from gateway.config.compile.world import World
from gateway.config.keys.checks import CheckKeys
from gateway.config.keys.routes import RouteKeys
from gateway.config.tree import Path
from gateway.config.validate import Section
from gateway.model.route import Access, AccessKind, CheckTemplate

ANY: Final = "*"
_AUTHORIZE: Final = "authorize"


@dataclass(frozen=True, slots=True)
class Authorization:
    """`authorize` compiled: what every key (or, under `*`, the one value) asks for."""

    by_key: Mapping[str, Access]

    def of(self, method: str, *others: str) -> Access | None:
        """What a method asks for; `others` are looked at after `*`."""
        keys = (method, "GET", ANY) if method == "HEAD" else (method, ANY, *others)
        return next((self.by_key[key] for key in keys if key in self.by_key), None)


def compile_authorization(section: Section[RouteKeys], scope: Scope, world: World) -> Authorization:
    """What the keys of `authorize` ask for; what is wrong is noted."""
    value: Any = section.keys.authorize
    if not isinstance(value, dict):
        return Authorization({ANY: _access(section, (_AUTHORIZE,), value, scope, world)})
    by_key = {}
    for method, asked in value.items():
        path = (_AUTHORIZE, method)
        if method == ANY or check_method(section.key(*path), method, world):
            by_key[method] = _access(section, path, asked, scope, world)
    return Authorization(by_key)


def access_by_method(
    section: Section[RouteKeys], authorization: Authorization, methods: Iterable[str], world: World
) -> dict[str, Access]:
    """What each method asks for; methods without a key, and keys without a method, are noted."""
    bulk = {"POST"} if section.has("aggregate", "bulk") else set()
    found = {method: authorization.of(method) for method in sorted(methods)}
    missing = [method for method, access in found.items() if access is None]
    if missing:
        message = f'no key for {", ".join(missing)}: name them, add "*", or limit methods'
        world.problems.error(section.key(_AUTHORIZE), "method-without-access", message)
    for key in authorization.by_key:
        if key not in {ANY, *found, *bulk}:
            message = f"{key} is not among the route's methods, so this key has no effect"
            world.problems.warning(section.key(_AUTHORIZE, key), "unused-key", message)
    return {method: access for method, access in found.items() if access is not None}


def _access(
    section: Section[RouteKeys], path: Path, value: str | list[str | CheckKeys], scope: Scope, world: World
) -> Access:
    if not isinstance(value, str):
        return Access(AccessKind.CHECKS, compile_checks(section, path, value, scope, world))
    if value == "authenticated" and scope.identity == "opaque":
        message = "authenticated needs to know who asks, and identity is opaque: IAM resolves the token; name a check"
        world.problems.error(section.at(*path), "opaque-identity", message)
    return Access(AccessKind(str(value)))


def compile_checks(
    section: Section[RouteKeys], path: Path, checks: Iterable[str | CheckKeys], scope: Scope, world: World
) -> tuple[CheckTemplate, ...]:
    """A list of checks, each once."""
    found: dict[str, CheckTemplate] = {}
    for index, check in enumerate(checks):
        compiled = compile_check(check, section.at(*path, index), replace(scope, subject=True), world)
        if compiled is not None:
            found.setdefault(compiled.source, compiled)
    return tuple(found.values())
