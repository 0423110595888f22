"""YAML text → a tree with the place of everything. The one door to PyYAML, of which only the parser's events are used.

Rules: one document, a mapping at its top; no tags; duplicate keys refused; aliases are read, within a cap on all values
together, so that a small file can't become a large tree; size and depth are capped. A mistake of syntax ends the
reading of its file with one line; mistakes that leave the shape readable are all noted.

Deliberately absent: merge keys (`<<` is not YAML 1.2; what routes share is a policy) and anything but UTF-8.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

import yaml

from gateway.config.problems import Mark, Problems, quoted
from gateway.config.tree import Node, Scalar

# What an unquoted YAML word means: the YAML 1.2 core schema (section 10.3), and nothing of YAML 1.1.
#
# `on`, `yes`, `1:30`, `1_000` and dates are text. So is a number with a leading zero: YAML 1.1 reads `017` as 15, 1.2
# as 17, so it is nobody's number here. `.inf`, `.nan` and numbers too large for JSON are refused.

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE: Final = frozenset({"true", "True", "TRUE"})
_FALSE: Final = frozenset({"false", "False", "FALSE"})
_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_BASED: Final = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")
_MAX_DIGITS: Final = 40


def resolve(text: str) -> Scalar:
    """The value of an unquoted scalar. Raises ValueError for a number that can't be used."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if not text[0].isascii() or text[0] not in "+-.0123456789":
        return text
    return _number(text)


def _number(text: str) -> Scalar:
    whole, based, fraction = _INT.match(text), _BASED.match(text), _FLOAT.match(text)
    if (whole or based) and len(text) > _MAX_DIGITS:
        raise ValueError("this number is too large")
    if whole or based:
        return int(text, 0 if based else 10)
    if _NOT_FINITE.match(text) or (fraction and not math.isfinite(float(text))):
        raise ValueError("this number is not finite")
    return float(text) if fraction else text


MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 50
MAX_VALUES: Final = 200_000
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FORBIDDEN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


_BOM_SAID: Final = (
    "the file starts with a byte order mark; save it as UTF-8 without one (editors call it "
    '"UTF-8", not "UTF-8 with BOM"; in a shell: sed -i "1s/^\\xEF\\xBB\\xBF//" FILE)'
)


class _Refused(Exception):
    """The file can't be read on."""

    def __init__(self, mark: Mark, id_: str, message: str) -> None:
        super().__init__(message)
        self.mark, self.id, self.message = mark, id_, message


def read_yaml(file: str, content: bytes, problems: Problems) -> Node | None:
    """The tree of a file, or None when it can't be read; what is wrong is noted in `problems`."""
    try:
        return _Composer(file, _text(file, content), problems).document()
    except _Refused as refused:
        problems.error(refused.mark, refused.id, refused.message)
    return None


def _text(file: str, content: bytes) -> str:
    top = Mark(file)
    if len(content) > MAX_BYTES:
        raise _Refused(top, "file-too-large", f"the file is larger than {MAX_BYTES // 1024} KiB")
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise _Refused(top, "byte-order-mark", _BOM_SAID)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        mark = Mark(file, before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        raise _Refused(mark, "not-utf-8", f"byte 0x{content[error.start]:02x} is not UTF-8") from None
    if found := _FORBIDDEN.search(text):
        mark = _mark_at(file, text, found.start())
        raise _Refused(mark, "control-character", f"the character U+{ord(found.group()):04X} is not allowed here")
    return text


def _mark_at(file: str, text: str, index: int) -> Mark:
    return Mark(file, text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


class _Composer:
    """Events → Nodes, by recursive descent with one event in hand."""

    def __init__(self, file: str, text: str, problems: Problems) -> None:
        self._file = file
        self._lines = text.splitlines()
        self._events = yaml.parse(text, Loader=_LOADER)
        self._problems = problems
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._values = 0

    def document(self) -> Node:
        """The one document of the file."""
        self._next()
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            raise _Refused(Mark(self._file), "empty-file", "the file is empty")
        node = self._node(self._next(), 0)
        self._next()
        end = self._next()
        if not isinstance(end, yaml.StreamEndEvent):
            raise _Refused(self._mark(end), "several-documents", "there is a second document; only one is allowed")
        return self._mapping_at_top(node)

    def _mapping_at_top(self, node: Node) -> Node:
        if node.value is None:
            raise _Refused(node.mark, "empty-file", "the file is empty")
        if not isinstance(node.value, dict):
            raise _Refused(node.mark, "wrong-type", "the file must be a mapping: lines of `key: value`")
        return node

    def _next(self) -> Any:
        try:
            return next(self._events)
        except yaml.MarkedYAMLError as error:
            raise self._syntax(error) from None
        except (yaml.YAMLError, StopIteration, RecursionError):
            raise _Refused(Mark(self._file), "yaml-syntax", "this is not YAML") from None

    def _node(self, event: Any, depth: int) -> Node:
        mark = self._mark(event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, mark)
        if depth > MAX_DEPTH:
            raise _Refused(mark, "too-deep", f"nested deeper than {MAX_DEPTH} levels")
        self._untagged(event, mark)
        before = self._values
        self._count(1, mark)
        node = self._value(event, mark, depth)
        if event.anchor:
            self._anchors[event.anchor] = (node, self._values - before)
        return node

    def _value(self, event: Any, mark: Mark, depth: int) -> Node:
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(mark, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(mark, depth)
        if event.style:
            return Node(mark, self._text_of(event, mark))
        try:
            return Node(mark, resolve(event.value))
        except ValueError as error:
            self._problems.error(mark, "bad-number", f"{quoted(event.value)}: {error}")
            return Node(mark, 0)

    def _mapping(self, mark: Mark, depth: int) -> Node:
        members: dict[str, Node] = {}
        keys: dict[str, Mark] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key, at = self._key(event), self._mark(event)
            value = self._node(self._next(), depth + 1)
            if key in keys:
                self._problems.error(at, "duplicate-key", f"{quoted(key)} is already set in line {keys[key].line}")
            else:
                members[key], keys[key] = value, at
        return Node(mark, members, keys)

    def _key(self, event: Any) -> str:
        mark = self._mark(event)
        if not isinstance(event, yaml.ScalarEvent):
            raise _Refused(mark, "bad-key", "a key must be a word; text that starts with { or [ must be quoted")
        self._untagged(event, mark)
        self._count(1, mark)
        return self._text_of(event, mark)

    def _text_of(self, event: Any, mark: Mark) -> str:
        text = str(event.value)
        if _SURROGATE.search(text):
            raise _Refused(mark, "yaml-syntax", "an escape for half of a character")
        return text

    def _sequence(self, mark: Mark, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return Node(mark, tuple(items))

    def _alias(self, event: Any, mark: Mark) -> Node:
        if event.anchor not in self._anchors:
            raise _Refused(mark, "unknown-anchor", f"there is no anchor &{event.anchor} before this alias")
        node, size = self._anchors[event.anchor]
        self._count(size, mark)
        return node

    def _untagged(self, event: Any, mark: Mark) -> None:
        if event.tag is not None:
            self._problems.error(mark, "yaml-tag", "tags (`!…`) are not supported")

    def _count(self, values: int, mark: Mark) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise _Refused(mark, "too-many-values", f"more than {MAX_VALUES} values")

    def _mark(self, event: Any) -> Mark:
        return Mark(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _syntax(self, error: yaml.MarkedYAMLError) -> _Refused:
        at = error.problem_mark or error.context_mark
        if at is None:
            return _Refused(Mark(self._file), "yaml-syntax", str(error.problem))
        line = self._lines[at.line] if at.line < len(self._lines) else ""
        return _Refused(Mark(self._file, at.line + 1, at.column + 1), "yaml-syntax", _explained(error, line, at.column))


def _explained(error: yaml.MarkedYAMLError, line: str, column: int) -> str:
    """What the parser says, in words that name the usual causes."""
    if "\t" in line[: len(line) - len(line.lstrip())] or line[column : column + 1] == "\t":
        return "a tab; YAML is indented with spaces"
    if "flow" in str(error.context) and line[max(0, column - 1) : column + 1] == "${":
        return "`${…}` must be quoted inside { } and [ ]"
    if "flow" in str(error.context) and "{" in line[: column + 1][1:]:
        return f"{error.problem}; text with {{ }} must be quoted inside {{ }} and [ ]"
    if line[column : column + 1] in ("@", "`", "%"):
        return f"text that starts with {line[column]} must be quoted"
    opened = error.context_mark
    since = f" that starts in line {opened.line + 1}" if opened else ""
    context = f" ({error.context}{since})" if error.context else ""
    return f"{error.problem}{context}"
