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
from gateway.config.problems import Mark, Problems, near, nearest, quoted
from gateway.config.tree import Node, Path, Step, locate, plain
from gateway.config.wording import word

M = TypeVar("M", bound=Keys)
N = TypeVar("N", bound=Keys)
BUILT_IN: Final = ""
"""The file name of built-in policies in marks."""
_MAX_ROUNDS: Final = 20
_MAX_LISTED: Final = 12
_UNKNOWN: Final = "extra_forbidden"
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

    def inner(self, keys: N, *path: Step) -> Section[N]:
        """The mapping at `path`, which `keys` are of, as a section of its own."""
        node = self.node.get(*path) or self.node
        broken = frozenset(wrong[len(path) :] for wrong in self.broken if wrong[: len(path)] == path)
        return Section(node, keys, broken, self.home)

    def _shown(self, mark: Mark) -> Mark:
        return self.home if self.home and mark.file == BUILT_IN else mark


def validate(
    node: Node, model: type[M], problems: Problems, stand_ins: Mapping[str, Any] | None = None
) -> Section[M] | None:
    """The section, or None when nothing usable is left of it. `stand_ins` take the place of required keys."""
    data = plain(node)
    usable = isinstance(data, dict)
    broken: set[Path] = set()
    for round_ in range(_MAX_ROUNDS):
        known: dict[int, tuple[str, ...]] = {}
        try:
            return Section(node, model.model_validate(data, context=known), frozenset(broken))
        except ValidationError as error:
            details = error.errors(include_url=False)
        if round_ == 0:
            _report(node, data, details, known, problems)
        if not usable:
            return None
        data = copy.deepcopy(data)
        for detail in details:
            path = _path(node, detail["loc"])
            _repair(data, path, stand_ins or {})
            broken.add(path or (detail["loc"][-1],))
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


def _repair(data: Any, path: Path, stand_ins: Mapping[str, Any]) -> None:
    """Takes the smallest member that holds the mistake out of `data`.

    What is wrong within a list takes the whole list with it (its other items keep their places in the file); a missing
    key takes the mapping that lacks it, which at the top of the section is filled up with stand-ins.
    """
    for index, step in enumerate(path):
        if isinstance(step, int):
            path = path[:index]
            break
    if path:
        _remove(data, path)
    data.update({name: value for name, value in stand_ins.items() if name not in data})


def _remove(data: Any, path: Path) -> None:
    for step in path[:-1]:
        data = data.get(step, {})
    data.pop(path[-1], None)


def _report(
    node: Node, data: Any, details: Sequence[Details], known: Mapping[int, tuple[str, ...]], problems: Problems
) -> None:
    unknown = [_unknown_key(node, data, each["loc"], known) for each in details if each["type"] == _UNKNOWN]
    meant = {each.meant for each in unknown}
    for each in unknown:
        problems.error(each.mark, "unknown-key", each.message)
    for detail in details:
        kind, path = str(detail["type"]), _path(node, detail["loc"])
        if kind == _UNKNOWN or (kind == "missing" and (*path, detail["loc"][-1]) in meant):
            continue
        mark = locate(node, path, key=detail["loc"][-1:] == ("[key]",))
        if kind == "missing" or not problems.known_at(mark):
            problems.error(mark, *word(kind, detail))


@dataclass(frozen=True, slots=True)
class _Unknown:
    """A key that is not known, and the path of the one that was probably meant."""

    mark: Mark
    message: str
    meant: Path


def _unknown_key(node: Node, data: Any, loc: Sequence[Step], known: Mapping[int, tuple[str, ...]]) -> _Unknown:
    path = _path(node, loc)
    holder = data
    for step in path[:-1]:
        holder = holder[step]
    name, names = str(path[-1]), [each.rstrip("_") for each in known.get(id(holder), ())]
    meant = nearest(name, names)
    message = f"unknown key {quoted(name)}{_hint(name, names)}"
    return _Unknown(locate(node, path, key=True), message, (*path[:-1], meant or ""))


def _hint(name: str, names: Sequence[str]) -> str:
    if name == "<<":
        return "; merge keys are not YAML 1.2: what routes share is a policy"
    before, colon, after = name.partition(":")
    if colon and before in names:
        return f'; a space belongs behind the colon: "{before}: {after}"'
    few = f"; known here: {', '.join(names)}" if 0 < len(names) <= _MAX_LISTED else ""
    return near(name, names) or few
