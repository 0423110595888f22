"""JSON from others: what is read can be walked, compared and written again."""

from __future__ import annotations

import pytest

from gateway.forward.comparison import same
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
