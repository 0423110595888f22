"""What all keys share, and the types of single values: each says itself what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from gateway.config import values
from gateway.config.problems import quoted
from gateway.config.tree import Interpolated

# What all key models share: strictness, and remembering which keys a mapping may have, for "did you mean".
#
# A key may be left out where it has a default; writing it without a value is a mistake, so that a half-edited line is
# never taken for a decision.

T = TypeVar("T")


def mistake(id_: str, message: str) -> PydanticCustomError:
    """A mistake in one value. The message is passed as data, so that braces in it are not placeholders."""
    return PydanticCustomError(id_, "{message}", {"message": message})


def checked(parse: Callable[[str], T], id_: str) -> Callable[[str], T]:
    """`parse`, with its ValueError told as a mistake called `id_`."""

    def validate(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise mistake(id_, str(error)) from None

    return validate


class Keys(BaseModel):
    """A mapping with known keys. Validation with a dict as context leaves there the keys of each mapping by its id."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _remember_keys(cls, data: Any, info: ValidationInfo) -> Any:
        if isinstance(info.context, dict):
            info.context[id(data)] = tuple(cls.model_fields)
        return data


def key(default: object, description: str) -> Any:
    """A key with a default, written as in the file."""
    return Field(default=default, validate_default=True, description=description)


def required(description: str) -> Any:
    """A key that must be there."""
    return Field(description=description)


def optional(description: str) -> Any:
    """A key that may be left out; what that means is in the description."""
    return Field(default=None, description=description)


def group(model: Callable[[], Any], description: str) -> Any:
    """A mapping that may be left out, as may each of its keys."""
    return Field(default_factory=model, description=description)


def listing(description: str) -> Any:
    """A list that is empty when left out."""
    return Field(default_factory=list, description=description)


def _given(value: Any) -> Any:
    if value is None:
        raise mistake("empty-value", "no value; give one or remove the key")
    return value


Maybe = Annotated[T | None, BeforeValidator(_given)]
"""A key that may be left out but not be written without a value."""


def by_shape(message: str, **shapes: type | tuple[type, ...]) -> Discriminator:
    """Chooses among the members of a union by what kind of YAML value stands there; tags are `<name>`."""

    def choose(value: Any) -> str | None:
        for name, kinds in shapes.items():
            if isinstance(value, kinds) and not (isinstance(value, bool) and bool not in (kinds, *_as_tuple(kinds))):
                return f"<{name}>"
        return None

    return Discriminator(choose, custom_error_type="wrong-type", custom_error_message=message)


def _as_tuple(kinds: type | tuple[type, ...]) -> tuple[type, ...]:
    return kinds if isinstance(kinds, tuple) else (kinds,)


# The types of single values: durations, sizes, names, paths of files, secrets. Each says what is wrong itself.
#
# They carry a name, so that the JSON Schema defines them once and the reference can say "Duration".

VARIABLE: Final = r"\$\{[^{}]+\}"
_VISIBLE: Final = re.compile(r"[\x21-\x7e]*\Z")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]*\*?\Z")
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


def _schema(*alternatives: dict[str, Any], description: str, examples: list[Any] | None = None) -> WithJsonSchema:
    interpolated = {"type": "string", "pattern": VARIABLE}
    schema: dict[str, Any] = {"description": description, "anyOf": [*alternatives, interpolated]}
    return WithJsonSchema(schema | ({"examples": examples} if examples else {}))


def _unit(parse: Any, id_: str, *, zero: bool) -> BeforeValidator:
    reading = checked(parse, id_)

    def validate(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise mistake(id_, _kind_message(id_))
        result = reading(str(value))
        if not result and not zero:
            raise mistake(id_, f"{value} is too short: it must be more than zero")
        return result

    return BeforeValidator(validate)


def _kind_message(id_: str) -> str:
    return {
        "bad-duration": "a duration is expected, like 250ms, 2s, 1m30s or 1h",
        "bad-size": "a size is expected, like 512B, 64KiB or 10MiB",
    }.get(id_, "a share is expected, like 50%")


def _integer(value: Any) -> Any:
    if isinstance(value, Interpolated):
        if not re.fullmatch(r"[-+]?(0|[1-9][0-9]{0,17})", value):
            raise mistake("wrong-type", f"a whole number is expected, not {quoted(value)}")
        return int(value)
    return value


def _flag(value: Any) -> Any:
    if isinstance(value, Interpolated):
        if value not in ("true", "false"):
            raise mistake("wrong-type", f"true or false is expected, not {quoted(value)}")
        return value == "true"
    return value


def _one_line(text: str) -> str:
    if not text:
        raise mistake("empty-value", "this must not be empty")
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in text):  # C0 and DEL
        raise mistake("bad-value", "line breaks and control characters are not allowed here")
    return str(text)


def _secret(text: str) -> str | None:
    if not _VISIBLE.match(text):
        raise mistake("bad-secret", "a secret is visible ASCII without spaces and line breaks")
    return str(text) or None


def _required_secret(text: str) -> str:
    if not text:
        raise mistake("empty-value", "this secret must not be empty")
    return _secret(text) or ""


def _header_name(text: str) -> str:
    if not _TOKEN.match(text):
        raise mistake("bad-header-name", f"{quoted(text)} is not a header name")
    return text.lower()


def _media_type(text: str) -> str:
    if not _MEDIA_TYPE.match(text):
        raise mistake("bad-media-type", f"{quoted(text)}: a media type is expected, like text/event-stream")
    return text.lower()


def _name(text: str) -> str:
    if not NAME.match(text):
        raise mistake("bad-name", f"{quoted(text)}: a name is letters, digits, '.', '_' and '-', at most 100 of them")
    return str(text)


def _word(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value


_DURATION_TEXT: Final = {"type": "string", "pattern": values.DURATION_PATTERN}
_SIZE_TEXT: Final = {"type": "string", "pattern": values.SIZE_PATTERN}

Duration = TypeAliasType(
    "Duration",
    Annotated[
        float,
        _unit(values.parse_duration, "bad-duration", zero=False),
        _schema(_DURATION_TEXT, description="More than zero, with its unit: 250ms, 2s, 1m30s, 1h.", examples=["2s"]),
    ],
)
DurationOrZero = TypeAliasType(
    "DurationOrZero",
    Annotated[
        float,
        _unit(values.parse_duration, "bad-duration", zero=True),
        _schema(_DURATION_TEXT, description="0s or more, with its unit: 0s, 250ms, 2s, 1m30s, 1h.", examples=["2s"]),
    ],
)
DurationOrOff = TypeAliasType(
    "DurationOrOff",
    Annotated[
        float,
        _unit(values.parse_duration, "bad-duration", zero=True),
        BeforeValidator(lambda value: "0s" if value == "off" else value),
        _schema(
            _DURATION_TEXT,
            {"const": "off"},
            description="A duration with its unit, or `off`: 250ms, 2s, off.",
            examples=["1s", "off"],
        ),
    ],
)
"""0 is off."""
Size = TypeAliasType(
    "Size",
    Annotated[
        int,
        _unit(values.parse_size, "bad-size", zero=False),
        _schema(_SIZE_TEXT, description="More than zero, with its unit: 512B, 64KiB, 10MiB, 1GiB.", examples=["64KiB"]),
    ],
)
SizeOrZero = TypeAliasType(
    "SizeOrZero",
    Annotated[
        int,
        _unit(values.parse_size, "bad-size", zero=True),
        _schema(
            _SIZE_TEXT,
            {"const": 0},
            description="0, or a size with its unit: 512B, 64KiB, 10MiB, 1GiB.",
            examples=["64KiB"],
        ),
    ],
)
Share = TypeAliasType(
    "Share",
    Annotated[
        float,
        _unit(values.parse_share, "bad-share", zero=False),
        _schema(
            {"type": "string", "pattern": values.SHARE_PATTERN},
            description="A percentage above 0%: 50%.",
            examples=["50%"],
        ),
    ],
)
SomeOrNone = TypeAliasType(
    "SomeOrNone",
    Annotated[
        float,
        _unit(values.parse_some, "bad-share", zero=True),
        _schema(
            {"type": "string", "pattern": values.SHARE_PATTERN},
            {"enum": ["all", "none"]},
            description="all, none, or a percentage: 1%.",
            examples=["all", "1%"],
        ),
    ],
)
"""1 is all, 0 is none."""
Count = TypeAliasType(
    "Count",
    Annotated[
        int,
        BeforeValidator(_integer),
        Field(ge=1, le=10**9),
        _schema({"type": "integer", "minimum": 1, "maximum": 10**9}, description="A whole number, at least 1."),
    ],
)
Status = TypeAliasType(
    "Status",
    Annotated[
        int,
        BeforeValidator(_integer),
        Field(ge=200, le=599),
        _schema({"type": "integer", "minimum": 200, "maximum": 599}, description="An HTTP status, 200 to 599."),
    ],
)
Flag = TypeAliasType(
    "Flag",
    Annotated[bool, BeforeValidator(_flag), _schema({"type": "boolean"}, description="true or false.")],
)
Text = TypeAliasType(
    "Text",
    Annotated[
        str,
        StringConstraints(max_length=8192),
        AfterValidator(_one_line),
        WithJsonSchema({"type": "string", "minLength": 1, "description": "Text on one line, not empty."}),
    ],
)
Secret = TypeAliasType(
    "Secret",
    Annotated[
        str,
        AfterValidator(_secret),
        WithJsonSchema(
            {
                "type": "string",
                "description": "A secret. Write it as ${VAR} or ${file:/path}. It is never shown. Empty means none.",
            }
        ),
    ],
)
RequiredSecret = TypeAliasType(
    "RequiredSecret",
    Annotated[
        str,
        AfterValidator(_required_secret),
        WithJsonSchema(
            {
                "type": "string",
                "minLength": 1,
                "description": "A secret. Write it as ${VAR} or ${file:/path}. It is never shown.",
            }
        ),
    ],
)
FilePath = TypeAliasType(
    "FilePath",
    Annotated[
        str,
        AfterValidator(_one_line),
        WithJsonSchema(
            {"type": "string", "minLength": 1, "description": "A file; a relative path starts at routes.yaml's folder."}
        ),
    ],
)
HeaderName = TypeAliasType(
    "HeaderName",
    Annotated[
        str,
        AfterValidator(_header_name),
        WithJsonSchema({"type": "string", "minLength": 1, "description": "The name of a header field, in any case."}),
    ],
)
MediaType = TypeAliasType(
    "MediaType",
    Annotated[
        str,
        AfterValidator(_media_type),
        WithJsonSchema(
            {"type": "string", "minLength": 3, "description": "`type/subtype` without parameters; may end with `*`."}
        ),
    ],
)
Name = TypeAliasType(
    "Name",
    Annotated[
        str,
        AfterValidator(_name),
        _schema(
            {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"},
            description="Letters, digits, `.`, `_` and `-`, starting with a letter or digit.",
        ),
    ],
)
Word = BeforeValidator(_word)
"""Before a Literal: interpolated text counts as the word it is."""


def _json(value: Any) -> Any:
    """A JSON value free of interpolated text's own type."""
    if isinstance(value, dict):
        return {name: _json(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_json(item) for item in value]
    return str(value) if isinstance(value, str) else value


Json = Annotated[Any, BeforeValidator(_json)]
JsonObject = Annotated[dict[str, Any], BeforeValidator(_json)]
