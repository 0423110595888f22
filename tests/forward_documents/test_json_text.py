"""JSON from others: what is read can be walked, compared and written again."""

from __future__ import annotations

import pytest

from gateway.forward.aggregate import same
from gateway.forward.json_text import MAX_DEPTH, read_callers, read_systems, write


def nested(depth):
    return [b"[" * depth + b"]" * depth, b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)]


@pytest.mark.parametrize("read", [read_callers, read_systems])
def test_what_may_be_read_can_be_compared_and_written(read):
    for text in nested(MAX_DEPTH):
        value = read(text)
        assert same(value, read(text))
        assert write(value) == text


@pytest.mark.parametrize("read", [read_callers, read_systems])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 500, 900, 100_000])
def test_what_is_deeper_is_refused_and_never_a_crash(read, depth):
    for text in nested(depth):
        with pytest.raises(ValueError, match="nested too deeply"):
            read(text)


def test_brackets_in_text_are_text():
    assert read_systems(b'["' + b"[{" * 1000 + b'\\"[[", ' + b"[" * 150 + b"]" * 151)[0].startswith("[{")


NUMBERS = ["3.14159265358979323846", "-0", "1E5", "0.10", "-0.0", "1E-400", "100000000000000000000000001", "1.5"]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_systems_number_is_written_down_as_it_was_read(number: str) -> None:
    text = b'{"a":%b,"b":[%b,"%b"],"%b":"\xed\x95\x9c"}' % ((number.encode(),) * 4)
    assert write(read_systems(text)) == text


def test_a_number_as_written_equals_its_value_and_nothing_looks_like_one() -> None:
    one, other, text = read_systems(b'[1E2, 100.00, "1E2"]')
    assert one == other == 100
    assert one != text
    assert hash(one) == hash(100)
    with pytest.raises(TypeError, match="object is not JSON"):
        write(object())


def test_numbers_stay_beside_what_is_no_utf_8() -> None:
    assert write(read_systems(b'["\\ud800",1E5]')) == b'["\\ud800",1E5]'
