"""`${VAR}`, `${VAR:-default}`, `${file:/path}` and `$$` inside scalar values, replaced after parsing.

What comes in is text and stays text, so no variable can change the shape of the file; keys that take a number or a
truth value read it from such text. As in a shell, `:-` also stands in for a variable that is empty. A file's trailing
line break is dropped. Deliberately absent: nesting, `$VAR` without braces (a mistake), and keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from gateway.config.problems import Mark, Problems, near, quoted
from gateway.config.tree import Interpolated, Node

_DOLLAR: Final = re.compile(r"\$(?:\$|\{([^{}]*)\}|)")
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
        return Node(node.mark, Interpolated(filled))

    def _replacement(self, found: re.Match[str], mark: Mark) -> str:
        inner = found.group(1)
        if found.group() == "$$":
            return "$"
        if inner is None:
            self._problems.error(
                mark, "bad-variable", "a lone $: write ${NAME} for a variable and $$ for a dollar sign"
            )
            return ""
        if inner.startswith("file:"):
            return self._read_text(mark, inner.removeprefix("file:")) or ""
        return self._variable(inner, mark)

    def _variable(self, inner: str, mark: Mark) -> str:
        name, colon, default = inner.partition(":-")
        if not _NAME.match(name) or "$" in default:
            message = f"{quoted('${' + inner + '}')} is none of ${{NAME}}, ${{NAME:-default}}, ${{file:/path}}"
            self._problems.error(mark, "bad-variable", message)
            return ""
        value = self._environ.get(name)
        if colon:
            return value or default
        if value is None:
            hint = near(name, self._environ)
            self._problems.error(mark, "unset-variable", f"${{{name}}} is not set and has no default{hint}")
        return value or ""
