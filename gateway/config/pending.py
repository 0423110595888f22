"""Keys that the reference knows but this build does not act on yet: refused, never ignored.

A key path is written with dots, `*` for any name or index: `server.tls`, `routes.*.cors`, `policies.*.max_body`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.config.problems import Problems
from gateway.config.tree import Node, Path, locate, walk

PENDING: Final[Mapping[str, str]] = MappingProxyType({})
"""Key path → why it is refused."""


def refuse_pending(root: Node, problems: Problems, pending: Mapping[str, str] = PENDING, prefix: Path = ()) -> None:
    """Notes every key of `pending` that `root` has. `prefix`: where `root` stands among all files."""
    for pattern, reason in pending.items():
        wanted = pattern.split(".")
        for path, _ in walk(root) if pending else ():
            if _matches(wanted, (*prefix, *path)):
                problems.error(
                    locate(root, path, key=True), "not-supported", f"{pattern} is not supported yet: {reason}"
                )


def _matches(wanted: list[str], path: Path) -> bool:
    return len(wanted) == len(path) and all(w in ("*", str(step)) for w, step in zip(wanted, path, strict=True))
