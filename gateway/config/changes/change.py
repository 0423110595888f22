"""One difference between two configurations, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

EVERYWHERE: Final = "every route"


class Said(NamedTuple):
    """What became weaker: the field of the model that it is about, and the words for it."""

    field: str
    text: str


Lines = Iterator[Said]


@dataclass(frozen=True, slots=True)
class Change:
    """`where`: a route's id, `every route`, or a section of the file. `field`: the key that it is about."""

    where: str
    field: str
    text: str
    weaker: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"
