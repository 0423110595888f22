"""A configuration as JSON for the admin listener, without its secrets.

A field that the model keeps out of its `repr` is a secret. Bodies and queries that the gateway sends to systems of an
aggregate may hold keys of those systems, so they are masked as well; so is the query of every URL.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any, Final

from gateway.model.route import CheckTemplate, Part
from gateway.model.settings import Configuration
from gateway.template import Template

MASK: Final = "***"


def masked(configuration: Configuration) -> dict[str, Any]:
    """Everything in the configuration, secrets masked."""
    view: dict[str, Any] = _view(configuration)
    return view


def _view(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float) or type(value) is str:
        return _without_query(value) if type(value) is str and "://" in value else value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, CheckTemplate):
        return value.source
    if isinstance(value, Template):
        return template_text(value)
    if is_dataclass(value) and type(value).__str__ is object.__str__:
        return {field.name: _member(value, field) for field in fields(value)}
    return _collection(value)


def _member(holder: Any, field: Field[Any]) -> Any:
    value = getattr(holder, field.name)
    if value is not None and not field.repr:
        return MASK
    if isinstance(holder, Part) and field.name == "json" and value is not None:
        return MASK
    if isinstance(holder, Part) and field.name == "path":
        return _without_query(template_text(value))
    return _view(value)


def _without_query(text: str) -> str:
    path, question, _ = text.partition("?")
    return f"{path}?{MASK}" if question else path


def _collection(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _view(member) for name, member in value.items()}
    if isinstance(value, frozenset | set):
        return sorted((_view(item) for item in value), key=str)
    if isinstance(value, tuple | list):
        return [_view(item) for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def template_text(template: Template) -> str:
    """A template as it was written."""
    return "".join(map(str, template.parts))
