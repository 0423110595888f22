"""What a mistake in one value is called and how it is said: the library's error types in the words of the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.config.problems import near, quoted

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
