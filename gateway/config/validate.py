"""One section of the file against its key model: every mistake where it stands, in the words of the file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

from pydantic import ValidationError

from gateway.config.keys import Keys
from gateway.config.problems import Mark, Problems, near, nearest, quoted
from gateway.config.tree import Node, Path, Step, locate, plain, walk

# What a mistake in one value is called and how it is said: the library's error types in the words of the file.

Details = Mapping[str, Any]
_KINDS: Final = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}

_ADDRESSES: Final = frozenset({"listen", "admin", "decisions"})


def word(kind: str, detail: Details) -> tuple[str, str]:
    """The id and the message for an error of the library, or of our own types."""
    value, context = detail.get("input"), detail.get("ctx", {})
    if kind in _KINDS:
        return _wrong_type(_KINDS[kind], value, of=str(detail["loc"][-1]) if detail.get("loc") else "")
    if kind in _WORDS:
        return _WORDS[kind](value, context, detail)
    return kind.replace("_", "-"), str(detail["msg"])


def _wrong_type(expected: str, value: Any, of: str = "") -> tuple[str, str]:
    if value is None:
        return "empty-value", f"no value: {expected} is expected"
    hint = ""
    if of in _ADDRESSES and isinstance(value, int):
        hint = f'; write HOST:PORT, like "127.0.0.1:{value}"'
    elif expected == "text" and isinstance(value, int | float):
        hint = f'; quote it: "{_shown(value)}"'
    return "wrong-type", f"{expected} is expected, not {_described(value)}{hint}"


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return f"the text {quoted(value)}" if isinstance(value, str) else _shown(value)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _missing(_value: Any, _context: Details, detail: Details) -> tuple[str, str]:
    return "missing-key", f"the key {quoted(detail['loc'][-1])} is missing"


def _check_outside_list(value: str, names: list[str]) -> str:
    """A check where a word is expected: how it is written."""
    return f"; checks are a list: [{quoted(value)}]" if "public" in names and " " in value and ":" in value else ""


def _literal(value: Any, context: Details, _detail: Details) -> tuple[str, str]:
    expected = str(context.get("expected", "")).replace("'", '"')
    if value is None:
        return "empty-value", f"no value: {expected} is expected"
    if not isinstance(value, str):
        return "wrong-type", f"{expected} is expected, not {_described(value)}"
    names = [name for name in expected.split('"')[1::2] if name]
    return "bad-value", f"{quoted(value)} is not {expected}{_check_outside_list(value, names) or near(value, names)}"


def _limit(words: str, name: str) -> Callable[[Any, Details, Details], tuple[str, str]]:
    def say(value: Any, context: Details, _detail: Details) -> tuple[str, str]:
        return "out-of-range", f"{_shown(value)} is out of range: {words} {context[name]}"

    return say


def _length(_value: Any, context: Details, _detail: Details) -> tuple[str, str]:
    if "min_length" in context:
        least = context["min_length"]
        return (
            ("empty-value", "this must not be empty")
            if least == 1
            else ("out-of-range", f"at least {least} are needed")
        )
    return "out-of-range", f"this is too long: at most {context['max_length']}"


_WORDS: Final[Mapping[str, Callable[[Any, Details, Details], tuple[str, str]]]] = {
    "missing": _missing,
    "literal_error": _literal,
    "greater_than_equal": _limit("at least", "ge"),
    "less_than_equal": _limit("at most", "le"),
    "too_short": _length,
    "too_long": _length,
    "string_too_long": _length,
}


# A section with mistakes is validated again without what was wrong, so that what looks at several keys together can
# still be checked; `Section.sound` tells such checks which keys they may rely on. Rules: one mistake for each place;
# a mistake is told in the words of the file, not of the library.

M = TypeVar("M", bound=Keys)
N = TypeVar("N", bound=Keys)
BUILT_IN: Final = ""
"""The file name of built-in policies in marks."""
_MAX_ROUNDS: Final = 20
_MAX_LISTED: Final = 12
_UNKNOWN: Final = "extra_forbidden"


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


# Keys that the reference knows but this build does not act on yet: refused, never ignored.
#
# A key path is written with dots, `*` for any name or index: `server.tls`, `routes.*.cors`, `policies.*.max_body`.

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
