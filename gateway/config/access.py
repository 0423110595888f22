"""`authorize` and other texts with placeholders → what each method of a route asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from gateway.checks import runs_together
from gateway.config.compile_context import CompileContext
from gateway.config.paths import check_method
from gateway.config.problems import Mark, near, quoted
from gateway.config.route_keys import CheckKeys, RouteKeys
from gateway.config.tree import Path
from gateway.config.validate import Section
from gateway.model.route import Access, AccessKind, CheckTemplate
from gateway.template import PLAIN, Placeholder, Template, TemplateError, parse

# Checks and other texts with placeholders → templates, with every placeholder known to have a value to come from.
#
# Rules: the check is taken apart before placeholders are filled in, so that a value can't change its shape; a
# placeholder that could never be filled, or that would carry a credential into a question (and so into keys and
# logs), is a mistake.

_WORD: Final = r"(?:\{[^{}]*\}|[^\s{}])+"
_TYPE: Final = r"(?:\{[^{}]*\}|[^\s{}:])+"
_CHECK: Final = re.compile(rf"({_WORD})\s+({_TYPE}):({_WORD})\Z")
_LONE_ITEM: Final = re.compile(r"(?<=\s)\{item\.([^{}:\s]+)\}\Z")
_HALVES: Final = r"{item.\1:type}:{item.\1:id}"
"""An item's member like `system:inventory`, alone after the action, is the whole resource: it is taken apart alike."""
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_CREDENTIALS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")


@dataclass(frozen=True, slots=True)
class Scope:
    """What placeholders may stand for at one place.

    `path_params` None and `identity` "" are unknown, because something was wrong there: nothing is said about them.
    """

    path_params: tuple[str, ...] | None
    identity: str
    subject: bool = True
    item: bool = False

    def names(self) -> list[str]:
        """Placeholders that can be named in a suggestion."""
        return [*PLAIN, *(f"path.{name}" for name in self.path_params or ()), "claim.NAME", "query.NAME", "header.NAME"]

    def for_items(self) -> Scope:
        """The same for a document's items."""
        return replace(self, item=True)


def compile_check(check: str | CheckKeys, mark: Mark, scope: Scope, world: CompileContext) -> CheckTemplate | None:
    """One check, or None with what is wrong noted at `mark`."""
    template = _compiled(check, mark, scope, world)
    if template is not None and runs_together(template):
        message = f"{quoted(template.source)}: put text between two placeholders, or different values make one question"
        world.problems.error(mark, "bad-check", message)
    return template


def _compiled(check: str | CheckKeys, mark: Mark, scope: Scope, world: CompileContext) -> CheckTemplate | None:
    if isinstance(check, str):
        return _from_text(str(check), mark, scope, world)
    fill = filling(mark, scope, world)
    action, resource = check.action, check.resource
    return CheckTemplate(
        action=_without_none(name=fill(action.name), properties=fill(action.properties)),
        resource=_without_none(type=fill(resource.type), id=fill(resource.id), properties=fill(resource.properties)),
        context=fill(check.context),
        source=json.dumps(check.model_dump(exclude_unset=True), ensure_ascii=False),
    )


def _without_none(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _from_text(text: str, mark: Mark, scope: Scope, world: CompileContext) -> CheckTemplate | None:
    found = _CHECK.match(_LONE_ITEM.sub(_HALVES, text.strip()) if scope.item else text.strip())
    if not found:
        message = f'{quoted(text)} is not "<action> <type>:<id>", like "read system:inventory"'
        if text.count("{") > text.count("}"):
            message = f'{quoted(text)}: a "{{" is not closed; placeholders are written like {{path.id}}'
        world.problems.error(mark, "bad-check", message)
        return None
    fill = filling(mark, scope, world)
    action, type_, id_ = (fill(part) for part in found.groups())
    return CheckTemplate({"name": action}, {"type": type_, "id": id_}, None, text.strip())


def filling(
    mark: Mark, scope: Scope, world: CompileContext, read: Callable[[str], Template] = parse
) -> Callable[[Any], Any]:
    """A function that turns every text in a JSON tree into a Template; what is wrong is noted at `mark`."""
    return partial(_filled, lambda text: compile_template(text, mark, scope, world, read))


def _filled(template: Callable[[str], Template], value: Any) -> Any:
    # Not a function inside `filling` that calls itself: that is a circle, and a reload may make thousands of them.
    if isinstance(value, str):
        return template(value)
    if isinstance(value, dict):
        return {name: _filled(template, member) for name, member in value.items()}
    return [_filled(template, item) for item in value] if isinstance(value, list) else value


def compile_template(
    text: str, mark: Mark, scope: Scope, world: CompileContext, read: Callable[[str], Template] = parse
) -> Template:
    """A text with placeholders; what is wrong is noted at `mark`, and the text then stands for itself."""
    try:
        template = read(str(text))
    except TemplateError as error:
        world.problems.error(mark, "bad-placeholder", _explained(text, scope, error))
        return Template((str(text),))
    for placeholder in template.placeholders:
        for message in _mistakes(placeholder, scope):
            world.problems.error(mark, "bad-placeholder", message)
    return template


def _explained(text: str, scope: Scope, error: TemplateError) -> str:
    for found in _BRACES.finditer(text):
        try:
            parse(found.group())
        except TemplateError:
            hint = near(found.group(1), scope.names()) or f"; known: {', '.join(scope.names())}"
            return f"unknown placeholder {found.group()}{hint}"
    return f"{quoted(text)}: {error}"


def _mistakes(placeholder: Placeholder, scope: Scope) -> Iterator[str]:
    kind, name = placeholder.kind, placeholder.name
    if kind == "path" and scope.path_params is not None and name not in scope.path_params:
        names = [f"path.{param}" for param in scope.path_params]
        yield f"the path has no parameter {{{name}}}{near(f'path.{name}', names)}"
    if kind == "item" and not scope.item:
        yield f"{placeholder} is for the check of navigation items only"
    if kind in ("claim", "subject.id") and not scope.subject:
        yield f"{placeholder}: nobody is identified on a public route"
    if kind == "claim" and scope.identity not in ("jwt", "introspection", ""):
        yield f"{placeholder}: only tokens of identity.jwt and identity.introspection have claims"
    if kind == "subject.id" and scope.identity == "opaque":
        yield f"{placeholder}: with opaque identity this is the token itself, which must stay out of questions"
    if kind == "header":
        yield from _header_mistakes(name)


def _header_mistakes(name: str) -> Iterator[str]:
    if name in _CREDENTIALS:
        yield f"{{header.{name}}} holds credentials, which must stay out of questions"
    if not _HEADER_NAME.match(name):
        yield f"{quoted(name)} is not a header name"


# `authorize` → what each method of a route asks for.
#
# By method one key applies: the method's own, for HEAD also GET's, else `"*"`. A method with none is a mistake, and
# an empty list too: nothing is ever permitted because nothing was asked.

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


def compile_authorization(section: Section[RouteKeys], scope: Scope, world: CompileContext) -> Authorization:
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
    section: Section[RouteKeys], authorization: Authorization, methods: Iterable[str], world: CompileContext
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
    section: Section[RouteKeys], path: Path, value: str | list[str | CheckKeys], scope: Scope, world: CompileContext
) -> Access:
    if not isinstance(value, str):
        return Access(AccessKind.CHECKS, compile_checks(section, path, value, scope, world))
    if value == "authenticated" and scope.identity == "opaque":
        message = "authenticated needs to know who asks, and identity is opaque: IAM resolves the token; name a check"
        world.problems.error(section.at(*path), "opaque-identity", message)
    return Access(AccessKind(str(value)))


def compile_checks(
    section: Section[RouteKeys], path: Path, checks: Iterable[str | CheckKeys], scope: Scope, world: CompileContext
) -> tuple[CheckTemplate, ...]:
    """A list of checks, each once."""
    found: dict[str, CheckTemplate] = {}
    for index, check in enumerate(checks):
        compiled = compile_check(check, section.at(*path, index), replace(scope, subject=True), world)
        if compiled is not None:
            found.setdefault(compiled.source, compiled)
    return tuple(found.values())
