"""Durations, sizes and shares as the configuration writes them, to and from seconds, bytes and fractions.

`250ms`, `2s`, `1m30s`, `1h`: units in falling order, each once. `64KiB`, `10MiB`: powers of 1024. `50%`. A number
without its unit is a mistake that says so (a duration that was meant as milliseconds must not become hours); `0` alone
needs no unit as a size.
"""

from __future__ import annotations

import re
from typing import Final

_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"
DURATION_PATTERN: Final = rf"^(?=[0-9])(?:{_NUMBER}h)?(?:{_NUMBER}m(?!s))?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?$"
SIZE_PATTERN: Final = r"^(?:0|[0-9]+(?:B|KiB|MiB|GiB))$"
SHARE_PATTERN: Final = r"^(?:100|[1-9]?[0-9](?:\.[0-9]+)?)%$"
MAX_DURATION_S: Final = 366 * 24 * 3600.0
MAX_SIZE: Final = 2**50
_MAX_TEXT: Final = 40
_DURATION: Final = re.compile(DURATION_PATTERN[:-1] + r"\Z")
_SIZE: Final = re.compile(SIZE_PATTERN[:-1] + r"\Z")
_SHARE: Final = re.compile(SHARE_PATTERN[:-1] + r"\Z")
_COMPONENT: Final = re.compile(r"([0-9.]+)(h|ms|m|s)")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BYTES: Final = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}
_LOOSE_SIZE: Final = re.compile(r"([0-9]+)\s*([kKmMgG])i?[bB]?\Z")


def parse_duration(text: str) -> float:
    """Seconds. Raises ValueError with what is wrong."""
    if re.fullmatch(r"[0-9.]+", text):
        raise ValueError(f'a duration needs its unit: "{text}s" or "{text}ms"')
    if len(text) > _MAX_TEXT or not _DURATION.match(text):
        raise ValueError("not a duration; write it like 250ms, 2s, 1m30s or 1h")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _COMPONENT.findall(text))
    if seconds > MAX_DURATION_S:
        raise ValueError("a duration is at most a year")
    return round(seconds, 9)


def format_duration(seconds: float) -> str:
    """The shortest text that reads back as `seconds`, with `60s` and `90s` rather than minutes up to two of them."""
    ms = round(seconds * 1000)
    if ms == 0:
        return "0s"
    if ms % 1000 or ms < 120_000:  # noqa: PLR2004 - two minutes
        return _seconds_text(ms)
    parts = (("h", ms // 3_600_000), ("m", ms // 60_000 % 60), ("s", ms // 1000 % 60))
    return "".join(f"{count}{unit}" for unit, count in parts if count)


def _seconds_text(ms: int) -> str:
    whole, rest = divmod(ms, 1000)
    return (f"{whole}s" if whole else "") + (f"{rest}ms" if rest else "")


def parse_size(text: str) -> int:
    """Bytes. Raises ValueError with what is wrong."""
    found = _LOOSE_SIZE.match(text)
    if len(text) <= _MAX_TEXT and _SIZE.match(text):
        number, unit = re.match(r"([0-9]+)(.*)", text).groups()  # type: ignore[union-attr] # the pattern matched
        size = int(number) * _BYTES.get(unit, 1)
        if size <= MAX_SIZE:
            return size
        raise ValueError("a size is at most 1 PiB")
    if re.fullmatch(r"[0-9]+", text):
        raise ValueError(f'a size needs its unit: "{text}B", "{text}KiB" or "{text}MiB"')
    hint = f'; did you mean "{found[1]}{found[2].upper()}iB"?' if found else ""
    raise ValueError(f"not a size; write it like 512B, 64KiB, 10MiB or 1GiB{hint}")


def format_size(size: int) -> str:
    """The shortest text that reads back as `size` bytes."""
    for unit, factor in _BYTES.items():
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return "0"


def parse_share(text: str) -> float:
    """A fraction above 0 and at most 1. Raises ValueError with what is wrong."""
    if len(text) > _MAX_TEXT or not _SHARE.match(text):
        raise ValueError("not a share; write it like 50%")
    share = float(text[:-1]) / 100
    if not share:
        raise ValueError("a share is more than 0%")
    return share


def parse_some(text: str) -> float:
    """`all`, `none`, or a share. Raises ValueError with what is wrong."""
    if text in ("all", "none"):
        return float(text == "all")
    try:
        return parse_share(text)
    except ValueError as error:
        raise ValueError(f"{error}; all and none are the words for everything and nothing") from None
