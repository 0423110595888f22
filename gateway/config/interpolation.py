"""`${VAR}`, `${VAR:-default}`, `${file:/path}` and `$$` inside scalar values, replaced after parsing.

What comes in is text and stays text, so no variable can change the shape of the file; keys that take a number or a
truth value read it from such text. As in a shell, `:-` also stands in for a variable that is empty. A file's trailing
line break is dropped; an empty file is a mistake, since a secret that is rotated in place is empty for a moment. A
dollar sign before anything but `{` and `$` is itself (GraphQL has its own variables).
Deliberately absent: nesting, `$VAR` without braces (warned about where there is such a variable), and keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from gateway.config.problems import Mark, Problems, near, quoted
from gateway.config.tree import Interpolated, Node

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
            message = f"${name} is text as it stands; ${{{name}}} would be the variable"
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
