"""JSON with the place of every value, for messages about a file that a person writes.

The standard library says where JSON is broken but not where a value stood. So a second walk, over text that is known to
be valid, notes places; it is made only when something has to be said. Rules: duplicate keys are a mistake, `NaN` and
`Infinity` too.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from gateway.pdp.problem import Problem, problem_at

Path_ = tuple[str | int, ...]
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_SCALAR: Final = re.compile(r"[^\s,\]}]+")


class JsonFile:
    """A parsed file. `value` is its content; `problem` makes a problem at a path of keys and indexes."""

    def __init__(self, file: Path, text: str, problems: list[Problem]) -> None:
        """Parse, adding to `problems`; `value` is None if nothing could be parsed. Raises RecursionError."""
        self._file = file
        self._text = text
        self._offsets: dict[Path_, int] = {}
        self._duplicates = False
        self.value: Any = None
        try:
            self.value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=self._object)
        except json.JSONDecodeError as error:
            problems.append(problem_at(file, text, error.pos, "json-syntax", error.msg[0].lower() + error.msg[1:]))
        except _ConstantError as error:
            problems.append(problem_at(file, text, text.find(str(error)), "json-syntax", f"{error} is not JSON"))
        if self._duplicates and self.value is not None:
            self._read(0, (), problems)

    def problem(self, path: Path_, problem_id: str, message: str) -> Problem:
        """A problem at the value (or, for a member, at its key) that `path` leads to."""
        if not self._offsets:
            self._read(0, (), [])
        return problem_at(self._file, self._text, self._offsets.get(path, 0), problem_id, message)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        self._duplicates |= len(members) != len(pairs)
        return members

    def _read(self, at: int, path: Path_, problems: list[Problem]) -> tuple[Any, int]:
        at = self._skip(at)
        self._offsets.setdefault(path, at)
        match self._text[at]:
            case "{":
                return self._read_object(at + 1, path, problems)
            case "[":
                return self._read_list(at + 1, path, problems)
            case '"':
                return self._read_string(at)
        found = _SCALAR.match(self._text, at)
        end = found.end() if found else at
        return json.loads(self._text[at:end]), end

    def _read_object(self, at: int, path: Path_, problems: list[Problem]) -> tuple[dict[str, Any], int]:
        members: dict[str, Any] = {}
        at = self._skip(at)
        while self._text[at] != "}":
            key_at = self._skip(at + 1 if self._text[at] == "," else at)
            key, at = self._read_string(key_at)
            if key in members:
                message = f"duplicate key {json.dumps(key)}"
                problems.append(problem_at(self._file, self._text, key_at, "duplicate-key", message))
            self._offsets[(*path, key)] = key_at
            members[key], at = self._read(self._skip(at) + 1, (*path, key), problems)
            at = self._skip(at)
        return members, at + 1

    def _read_list(self, at: int, path: Path_, problems: list[Problem]) -> tuple[list[Any], int]:
        items: list[Any] = []
        at = self._skip(at)
        while self._text[at] != "]":
            item, at = self._read(at + 1 if self._text[at] == "," else at, (*path, len(items)), problems)
            items.append(item)
            at = self._skip(at)
        return items, at + 1

    def _read_string(self, at: int) -> tuple[str, int]:
        found = _STRING.match(self._text, at)
        end = found.end() if found else at
        return json.loads(self._text[at:end]), end

    def _skip(self, at: int) -> int:
        found = _SPACE.match(self._text, at)
        return found.end() if found else at


class _ConstantError(ValueError):
    """`NaN` or the like stands in the text."""


def _refuse_constant(name: str) -> Any:
    raise _ConstantError(name)
