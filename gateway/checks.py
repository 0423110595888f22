"""Checks filled in: from what `routes.yaml` or a caller says to the exact text that IAM is asked.

A check's fragment is canonical JSON: keys sorted, no spaces, nothing escaped that need not be. It is both the wire form
and, with the subject's key, the identity of the question in cache and coalescing.

Rules: the shape of a check is compiled once, so a value fills in exactly one JSON string and can never add a member,
end a string or change a type; a check without placeholders is filled in once, at load. Different values make different
questions: of several in one text each ends where the template says, and a type that is filled in holds no `:`, because
some protocols write `type:id`. Deliberately absent: who asks
(the Subject), and what a placeholder stands for (`gateway.template.RequestValues`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from json.encoder import encode_basestring
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.model.permit import Check
from gateway.model.route import CheckTemplate
from gateway.template import Placeholder, Template, fill_tree

Value = Callable[[Placeholder], str]
_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
)


def make_check(action: Mapping[str, Any], resource: Mapping[str, Any], context: Mapping[str, Any] | None) -> Check:
    """A check of plain JSON values. Raises ValueError for NaN and infinities, which JSON does not have."""
    fragment = f'"action":{_ENCODER.encode(action)},"resource":{_ENCODER.encode(resource)}'
    if context is not None:
        fragment += f',"context":{_ENCODER.encode(context)}'
    return Check(action, resource, context, fragment)


class PreparedCheck:
    """One check of a route, compiled. `static` is the finished check where nothing has to be filled in."""

    __slots__ = ("_composite", "_pieces", "_template", "_typed", "placeholders", "source", "static")

    def __init__(self, template: CheckTemplate) -> None:
        self.source = template.source
        self._template = template
        self._pieces = tuple(_merged(_fragment(template)))
        self.placeholders = frozenset(piece for piece in self._pieces if isinstance(piece, Placeholder))
        self._composite = tuple(text for text in _templates(template) if len(text.placeholders) > 1)
        type_ = template.resource.get("type")
        self._typed = type_ if isinstance(type_, Template) and type_.placeholders else None
        self.static = None if self.placeholders else self._filled({})

    def fill(self, value: Value) -> Check:
        """The check for one request. `value` raises `bad_request` for what is not exactly one usable value."""
        return self.static or self._filled({placeholder: value(placeholder) for placeholder in self.placeholders})

    def shown(self, value: Value) -> Check:
        """The check filled in for people and records: `value` may give other texts than IAM was asked about."""
        template = self._template
        context = None if template.context is None else fill_tree(template.context, value)
        return Check(fill_tree(template.action, value), fill_tree(template.resource, value), context, "")

    def _filled(self, values: Mapping[Placeholder, str]) -> Check:
        template, value = self._template, values.__getitem__
        for text in self._composite:
            text.fill_distinctly(value)
        if self._typed is not None and ":" in self._typed.fill(value):
            raise GatewayError("bad_request", "A value of the request cannot be the type of a resource.")
        return Check(
            fill_tree(template.action, value),
            fill_tree(template.resource, value),
            None if template.context is None else fill_tree(template.context, value),
            "".join(piece if isinstance(piece, str) else _inside_string(values[piece]) for piece in self._pieces),
        )


def _templates(template: CheckTemplate) -> Iterator[Template]:
    """Every text of a check."""
    trees: list[Any] = [template.action, template.resource, template.context]
    while trees:
        tree = trees.pop()
        if isinstance(tree, Template):
            yield tree
        elif isinstance(tree, Mapping):
            trees += tree.values()
        elif isinstance(tree, (list, tuple)):
            trees += tree


def runs_together(template: CheckTemplate) -> bool:
    """Whether two values stand next to each other somewhere: no check can be filled in like that."""
    return any(text.runs_together for text in _templates(template))


def _inside_string(value: str) -> str:
    """The value as it stands between the quotes of a JSON string."""
    return encode_basestring(value)[1:-1]


def _fragment(template: CheckTemplate) -> Iterator[str | Placeholder]:
    yield '"action":'
    yield from _text(template.action)
    yield ',"resource":'
    yield from _text(template.resource)
    if template.context is not None:
        yield ',"context":'
        yield from _text(template.context)


def _text(tree: Any) -> Iterator[str | Placeholder]:
    """The canonical JSON of a tree, with the placeholders left where their values belong."""
    if isinstance(tree, Template):
        yield '"'
        yield from (_inside_string(part) if isinstance(part, str) else part for part in tree.parts)
        yield '"'
    elif isinstance(tree, Mapping):
        yield "{"
        for index, key in enumerate(sorted(tree)):
            yield f"{',' if index else ''}{_ENCODER.encode(key)}:"
            yield from _text(tree[key])
        yield "}"
    elif isinstance(tree, (list, tuple)):
        yield "["
        for index, member in enumerate(tree):
            yield "," if index else ""
            yield from _text(member)
        yield "]"
    else:
        yield _ENCODER.encode(tree)


def _merged(pieces: Iterator[str | Placeholder]) -> Iterator[str | Placeholder]:
    """Neighbouring texts made one, so that filling in is one short join."""
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
            continue
        yield text
        yield piece
        text = ""
    yield text
