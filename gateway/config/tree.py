"""What a YAML file says, with the place of every key and value: plain trees, no YAML library and no meaning yet.

Policies and routes are merged here, so that every value keeps the place where it was written. Rules: maps merge by
key, anything else replaces; a failure rule that names another `degrade` replaces the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.config.problems import Mark

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
