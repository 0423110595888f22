"""What all key models share: strictness, and remembering which keys a mapping may have, for "did you mean".

A key may be left out where it has a default; writing it without a value is a mistake, so that a half-edited line is
never taken for a decision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

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
