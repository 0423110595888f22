"""One section of the file against its key model: every mistake at the place of its key or value, all at once.

A section with mistakes is validated again without what was wrong, so that what looks at several keys together can still
be checked; `Section.sound` tells such checks which keys they may rely on. Rules: one mistake for each place; a mistake
is told in the words of the file, not of the library.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from pydantic import ValidationError

from gateway.config.keys.base import Keys
from gateway.config.problems import Mark, Problems, near, quoted
from gateway.config.tree import Node, Path, Step, locate, plain
from gateway.config.wording import word

M = TypeVar("M", bound=Keys)
BUILT_IN: Final = ""
"""The file name of built-in policies in marks."""
_MAX_ROUNDS: Final = 20
Details = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Section(Generic[M]):
    """A mapping of the file and what it says. `broken` are the paths at which something was wrong.

    `home` is shown instead of a place in a built-in policy, which no user can edit.
    """

    node: Node
    keys: M
    broken: frozenset[Path] = frozenset()
    home: Mark | None = None

    def at(self, *path: Step) -> Mark:
        """Where a value stands."""
        return self._shown(locate(self.node, path))

    def key(self, *path: Step) -> Mark:
        """Where a key stands."""
        return self._shown(locate(self.node, path, key=True))

    def has(self, *path: Step) -> bool:
        """Whether the file itself says this."""
        return self.node.get(*path) is not None

    def sound(self, *path: Step) -> bool:
        """Whether nothing was wrong at, above or below this path."""
        return not any(wrong[: len(path)] == path or path[: len(wrong)] == wrong for wrong in self.broken)

    def _shown(self, mark: Mark) -> Mark:
        return self.home if self.home and mark.file == BUILT_IN else mark


def validate(
    node: Node, model: type[M], problems: Problems, stand_ins: Mapping[str, Any] | None = None
) -> Section[M] | None:
    """The section, or None when nothing usable is left of it. `stand_ins` take the place of required keys."""
    data = plain(node)
    broken: set[Path] = set()
    for round_ in range(_MAX_ROUNDS):
        known: dict[int, tuple[str, ...]] = {}
        try:
            return Section(node, model.model_validate(data, context=known), frozenset(broken))
        except ValidationError as error:
            details = error.errors(include_url=False)
        if round_ == 0:
            _report(node, data, details, known, problems)
        data = copy.deepcopy(data)
        for detail in details:
            broken.add(_repair(data, _path(node, detail["loc"]), stand_ins or {}))
    return None


def _path(node: Node, loc: Sequence[Step]) -> Path:
    """`loc` without what the library put in between: tags of unions, and the last step that does not exist."""
    path: list[Step] = []
    for step in loc:
        child = node.child(step)
        if child is not None:
            path.append(step)
            node = child
    return tuple(path)


def _repair(data: Any, path: Path, stand_ins: Mapping[str, Any]) -> Path:
    """Takes the smallest member that holds the mistake out of `data`; returns its path.

    What is wrong within a list takes the whole list with it (its other items keep their places in the file); a missing
    key takes the mapping that lacks it, which at the top of the section is filled up with stand-ins.
    """
    for index, step in enumerate(path):
        if isinstance(step, int):
            path = path[:index]
            break
    return _remove(data, path, stand_ins)


def _remove(data: Any, path: Path, stand_ins: Mapping[str, Any]) -> Path:
    if not path:
        data.update({name: value for name, value in stand_ins.items() if name not in data})
        return ()
    holder = data
    for step in path[:-1]:
        holder = holder.get(step, {})
    holder.pop(path[-1], None)
    if len(path) == 1 and path[0] in stand_ins:
        data[path[0]] = stand_ins[str(path[0])]
    return path


def _report(
    node: Node, data: Any, details: Sequence[Details], known: Mapping[int, tuple[str, ...]], problems: Problems
) -> None:
    for detail in details:
        kind, path = str(detail["type"]), _path(node, detail["loc"])
        if kind == "extra_forbidden":
            mark, id_, message = _unknown_key(node, data, path, known)
        else:
            mark = locate(node, path, key=detail["loc"][-1:] == ("[key]",))
            id_, message = word(kind, detail)
        if not problems.known_at(mark) or kind == "missing":
            problems.error(mark, id_, message)


def _unknown_key(node: Node, data: Any, path: Path, known: Mapping[int, tuple[str, ...]]) -> tuple[Mark, str, str]:
    holder = data
    for step in path[:-1]:
        holder = holder[step]
    names = [name.rstrip("_") for name in known.get(id(holder), ())]
    hint = near(str(path[-1]), names) or (f"; known here: {', '.join(names)}" if names else "")
    if path[-1] == "<<":
        hint = "; merge keys are not YAML 1.2: what routes share is a policy"
    return locate(node, path, key=True), "unknown-key", f"unknown key {quoted(path[-1])}{hint}"
