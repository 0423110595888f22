"""What compiling a section may need of the rest of the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from gateway.config.files import Files
from gateway.config.problems import Mark, Problems
from gateway.config.tree import Node

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileContext:
    """What compiling a section may need of the rest of the file, known before any section is compiled.

    `identity`: jwt | opaque | header, "" where that is unknown. `policies` are trees by name. `access_policies`: the
    folder policies/access has at least one policy. `decisions`: there is a decision listener. `max_stale_s` is
    iam.cache.max_stale, None where that was wrong.
    """

    problems: Problems
    files: Files
    identity: str = ""
    upstreams: frozenset[str] = frozenset()
    policies: dict[str, Node] = field(default_factory=dict)
    access_policies: bool = False
    decisions: bool = False
    max_stale_s: float | None = None
    deadline_s: float = 10.0
    max_body: int = 64 * 1024 * 1024
    max_concurrency: int = 2000

    def attempt(self, mark: Mark, id_: str, parse: Callable[[str], T], text: str) -> T | None:
        """`parse(text)`, with its ValueError noted as a mistake called `id_`."""
        try:
            return parse(text)
        except ValueError as error:
            self.problems.error(mark, id_, str(error))
            return None

    def file(self, node: Node | None) -> Path | None:
        """The file that a value names, read and watched; None with a mistake where it can't be read."""
        if node is None or not isinstance(node.value, str) or not node.value:
            return None
        return self.files.resolve(node.value) if self.files.read(node.mark, node.value) is not None else None
