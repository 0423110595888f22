"""Unquoted words mean what YAML 1.2's core schema says, and never what YAML 1.1 made of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.yaml_reader import resolve


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(text, None) for text in ("", "~", "null", "Null", "NULL")],
        *[(text, True) for text in ("true", "True", "TRUE")],
        *[(text, False) for text in ("false", "False", "FALSE")],
        ("0", 0),
        ("-1", -1),
        ("+12", 12),
        ("0o17", 15),
        ("0xFF", 255),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("-1.5E-1", -0.15),
    ],
)
def test_core_values(text, value) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


TEXTS = (
    "on off yes no Yes y n nULL tRue 017 -017 1:30 12:30:45 1_000 2026-01-01 0b11 0x = << 1.2.3 1e e3 ٣ + - . +. 250ms "
    "0o8 nan inf -0x1"
)


@pytest.mark.parametrize("text", TEXTS.split())
def test_everything_else_is_text(text) -> None:
    assert resolve(text) == text


@pytest.mark.parametrize("text", [".inf", "-.INF", "+.Inf", ".nan", ".NaN", "1e999", "9" * 41, "0x" + "f" * 50])
def test_numbers_that_json_can_t_hold_are_refused(text) -> None:
    with pytest.raises(ValueError, match="this number is"):
        resolve(text)


@given(st.integers(-(10**30), 10**30))
def test_integers_read_back(number) -> None:
    assert resolve(str(number)) == number


@given(st.text(max_size=60))
def test_any_text_is_resolved_or_refused(text) -> None:
    try:
        value = resolve(text)
    except ValueError:
        return
    assert value is None or isinstance(value, bool | int | float) or value == text
