"""Durations, sizes and shares: units always, and they read back."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.values import MAX_DURATION_S, format_duration, format_size, parse_duration, parse_share, parse_size

DURATIONS = {
    "0s": 0,
    "250ms": 0.25,
    "2s": 2,
    "90s": 90,
    "1.5s": 1.5,
    "1m1ms": 60.001,
    "1m30s": 90,
    "5m": 300,
    "0.5h": 1800,
    "1h": 3600,
    "1h2m3s4ms": 3723.004,
    "8760h": 31_536_000,
}


@pytest.mark.parametrize(("text", "seconds"), DURATIONS.items())
def test_durations(text, seconds) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["5", "0", "2.5", "1000"])
def test_a_bare_number_is_told_to_name_its_unit(text) -> None:
    with pytest.raises(ValueError, match=f'a duration needs its unit: "{text}s" or "{text}ms"'):
        parse_duration(text)


@pytest.mark.parametrize(
    "text", ["", "s", "1 s", "-1s", "1d", "1s1m", "1s1s", "1ms1s", "1M", "1S", "1e3s", "٣s", "1s\n", "1_0s"]
)
def test_what_is_no_duration_is_refused(text) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["9000h", "99999999999999999999h"])
def test_a_duration_has_an_end(text) -> None:
    with pytest.raises(ValueError, match="at most a year"):
        parse_duration(text)


@given(st.integers(0, int(MAX_DURATION_S * 1000)))
def test_durations_read_back_to_the_millisecond(ms) -> None:
    assert parse_duration(format_duration(ms / 1000)) == pytest.approx(ms / 1000, abs=1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (60, "60s"),
        (90, "90s"),
        (120, "2m"),
        (300, "5m"),
        (3600, "1h"),
        (3661, "1h1m1s"),
        (2.5, "2s500ms"),
    ],
)
def test_durations_are_shown_short(seconds, text) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("0B", 0), ("512B", 512), ("64KiB", 65_536), ("10MiB", 10_485_760), ("1GiB", 2**30)]
)
def test_sizes(text, size) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("64", 'a size needs its unit: "64B", "64KiB" or "64MiB"'),
        ("64KB", 'did you mean "64KiB"?'),
        ("64k", 'did you mean "64KiB"?'),
        ("10 MB", 'did you mean "10MiB"?'),
        ("10mib", 'did you mean "10MiB"?'),
        ("1.5MiB", "not a size"),
        ("-1B", "not a size"),
        ("", "not a size"),
        ("99999999GiB", "at most 1 PiB"),
    ],
)
def test_what_is_no_size_says_what_would_be_one(text, words) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the words are compared below
        parse_size(text)
    assert words in str(refused.value)


@given(st.integers(0, 2**50))
def test_sizes_read_back(size) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(("text", "share"), [("50%", 0.5), ("100%", 1.0), ("0.5%", 0.005), ("7%", 0.07)])
def test_shares(text, share) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["50", "0.5", "0%", "101%", "-1%", "%", "50 %", ""])
def test_what_is_no_share_is_refused(text) -> None:
    with pytest.raises(ValueError, match="share"):
        parse_share(text)


@given(st.text(max_size=50))
def test_any_other_text_is_refused_with_a_reason(text) -> None:
    for parse in (parse_duration, parse_size, parse_share):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0
