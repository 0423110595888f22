"""What a YAML file says, as plain trees with the place of every key and value; and the variables in it, filled in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.config.problems import Mark, Problems, near, quoted

# Policies and routes are merged here, so that every value keeps the place where it was written. Rules: maps merge by
# key, anything else replaces; a failure rule that names another `degrade` replaces the whole.

Scalar = str | int | float | bool | None
Step = str | int
Path = tuple[Step, ...]


class Interpolated(str):
    """Text that came out of `${…}`: it may stand for a number or a truth value too."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it stands. `keys` are the places of a mapping's keys."""

    mark: Mark
    value: Scalar | tuple[Node, ...] | Mapping[str, Node]
    keys: Mapping[str, Mark] = field(default_factory=dict)

    def child(self, step: Step) -> Node | None:
        """The member or item, if there is one."""
        if isinstance(self.value, Mapping):
            return self.value.get(step) if isinstance(step, str) else None
        if isinstance(self.value, tuple) and isinstance(step, int):
            return self.value[step] if 0 <= step < len(self.value) else None
        return None

    def members(self) -> Mapping[str, Node]:
        """The members of a mapping; of anything else none."""
        return self.value if isinstance(self.value, Mapping) else {}

    def items(self) -> tuple[Node, ...]:
        """The items of a list; of anything else none."""
        return self.value if isinstance(self.value, tuple) else ()

    def get(self, *path: Step) -> Node | None:
        """The value at a path, if there is one."""
        node: Node | None = self
        for step in path:
            node = node.child(step) if node else None
        return node


def plain(node: Node) -> Any:
    """The value as dicts, lists and scalars."""
    if isinstance(node.value, Mapping):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, tuple):
        return [plain(child) for child in node.value]
    return node.value


def locate(node: Node, path: Sequence[Step], *, key: bool = False) -> Mark:
    """Where the value (or its key) at `path` stands; what of the path does not exist is passed over."""
    mark = node.mark
    for step in path:
        child = node.child(step)
        if child is not None:
            mark = node.keys.get(str(step), child.mark) if key else child.mark
            node = child
    return mark


def walk(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """Every value below `node` with its path, itself first."""
    yield path, node
    for name, member in node.members().items():
        yield from walk(member, (*path, name))
    for index, item in enumerate(node.items()):
        yield from walk(item, (*path, index))


def merge(base: Node | None, over: Node | None) -> Node | None:
    """`over` on top of `base`."""
    if base is None or over is None:
        return over or base
    if not (isinstance(base.value, Mapping) and isinstance(over.value, Mapping)) or _other_rule(base, over):
        return over
    members = {name: merge(base.child(name), over.child(name)) for name in {**base.value, **over.value}}
    return Node(over.mark, {k: v for k, v in members.items() if v is not None}, {**base.keys, **over.keys})


def _other_rule(base: Node, over: Node) -> bool:
    mine, theirs = over.child("degrade"), base.child("degrade")
    return mine is not None and theirs is not None and mine.value != theirs.value


# `${VAR}`, `${VAR:-default}`, `${file:/path}` and `$$` inside scalar values, replaced after parsing.
#
# What comes in is text and stays text, so no variable can change the shape of the file; keys that take a number or a
# truth value read it from such text. As in a shell, `:-` also stands in for a variable that is empty. A file's
# trailing line break is dropped; an empty file is a mistake, since a secret that is rotated in place is empty for a
# moment. A dollar sign before anything but `{` and `$` is itself (GraphQL has its own variables). Deliberately
# absent: nesting, `$VAR` without braces (warned about where there is such a variable), and keys.

_DOLLAR: Final = re.compile(r"\$(?:(\$)|(\{)(?:([^{}]*)\})?|([A-Za-z_][A-Za-z0-9_]*))")
_UNDECODED: Final = re.compile("[\ud800-\udfff]")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

ReadText = Callable[[Mark, str], str | None]


class Interpolation:
    """Replaces variables in a tree; every mistake is noted at the scalar that holds it."""

    def __init__(self, environ: Mapping[str, str], read_text: ReadText, problems: Problems) -> None:
        self._environ = environ
        self._read_text = read_text
        self._problems = problems

    def __call__(self, node: Node) -> Node:
        """The tree with every variable replaced."""
        if isinstance(node.value, str):
            return self._scalar(node, node.value)
        if isinstance(node.value, tuple):
            return Node(node.mark, tuple(map(self, node.value)))
        if isinstance(node.value, Mapping):
            return Node(node.mark, {key: self(value) for key, value in node.value.items()}, node.keys)
        return node

    def _scalar(self, node: Node, text: str) -> Node:
        if "$" not in text:
            return node
        filled = _DOLLAR.sub(lambda found: self._replacement(found, node.mark), text)
        if "${" in text.replace("$$", ""):
            self._problems.hide(filled, text)
        return Node(node.mark, Interpolated(filled))

    def _replacement(self, found: re.Match[str], mark: Mark) -> str:
        dollar, brace, inner, name = found.groups()
        if dollar:
            return "$"
        if not brace:
            return self._itself(name, mark)
        if inner is None:
            self._mistake(mark, "bad-variable", "${ without its }; $${ is a dollar sign and a brace")
            return ""
        if inner.startswith("file:"):
            value = self._file(mark, inner.removeprefix("file:"))
        else:
            value = self._variable(inner, mark)
        self._problems.hide(value, found.group())
        return value

    def _itself(self, name: str, mark: Mark) -> str:
        if name in self._environ:
            message = f"${name} is plain text; ${{{name}}} would be the variable"
            self._problems.warning(mark, "literal-dollar", message)
        return f"${name}"

    def _file(self, mark: Mark, name: str) -> str:
        """The content. An empty file is one that is being written, not a secret that is empty."""
        value = self._read_text(mark, name)
        if value is not None and not value.strip():
            self._mistake(mark, "empty-file", f"{name}: the file is empty; a value is expected in it")
        return value or ""

    def _variable(self, inner: str, mark: Mark) -> str:
        name, colon, default = inner.partition(":-")
        if not _NAME.match(name) or "$" in default:
            message = f"{quoted('${' + inner + '}')} is none of ${{NAME}}, ${{NAME:-default}}, ${{file:/path}}"
            self._mistake(mark, "bad-variable", message)
            return ""
        value = self._environ.get(name)
        if value and _UNDECODED.search(value):
            self._mistake(mark, "not-utf-8", f"the value of ${{{name}}} is not UTF-8")
            return ""
        if colon:
            return value or default
        if value is None:
            hint = near(name, self._environ)
            self._mistake(mark, "unset-variable", f"${{{name}}} is not set and has no default{hint}")
        return value or ""

    def _mistake(self, mark: Mark, id_: str, message: str) -> None:
        if not self._problems.known_at(mark):
            self._problems.error(mark, id_, message)
