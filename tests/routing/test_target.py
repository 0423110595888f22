"""Targets: what two parsers could read differently reaches nobody, everything else keeps its bytes."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model.request import Target
from gateway.routing import parse_target
from tests.support.properties import examples

ALPHABET = [b"/", b".", b"%", b"2", b"f", b"e", b"5", b"c", b";", b"\\", b"#", b"?", b"a"]
PIECES = [
    *ALPHABET,
    b"..",
    b"%2e",
    b"%2E",
    b"%2f",
    b"%5c",
    b"%25",
    b"%3b",
    b"%00",
    b"%09",
    b"%20",
    b"%ef%bc%8f",
    b"%c0%af",
]


def most_aggressive_reading(raw: bytes) -> bytes:
    """What a server could make of it that decodes thrice, knows backslashes and path parameters, and resolves dots."""
    path = raw.split(b"?")[0].split(b"#")[0]
    for _ in range(3):
        path = unquote_to_bytes(path)
    path = path.replace(b"\\", b"/").replace(b"\xef\xbc\x8f", b"/").replace(b"\xc0\xaf", b"/").split(b"\x00")[0]
    path = re.sub(rb"[\t\r\n]", b"", path)
    resolved: list[bytes] = []
    for segment in re.sub(rb"/+", b"/", path).split(b"/"):
        name = segment.split(b";")[0]
        if name == b".." and not resolved:
            return b"escaped"
        if name == b"..":
            resolved.pop()
        elif name not in (b"", b"."):
            resolved.append(name)
    return (b"/" + b"/".join(resolved)).lower()


def accepted(raw: bytes) -> Target | None:
    """The target, or None if it was refused as it should be."""
    try:
        return parse_target(raw)
    except GatewayError as error:
        if error.code != "bad_request":
            raise
        return None


@given(st.one_of(*(st.lists(st.sampled_from(pieces), max_size=16).map(b"".join) for pieces in (ALPHABET, PIECES))))
@examples(500)
@example(b"..%2f..%2fadmin")
@example(b"..%3b/admin")
@example(b"%252e%252e/admin")
def test_what_is_accepted_below_a_prefix_stays_below_it_for_every_reader(rest: bytes) -> None:
    raw = b"/inventory/" + rest
    target = accepted(raw)
    if target is None:
        return
    reading = most_aggressive_reading(raw)
    assert reading == b"/inventory" or reading.startswith(b"/inventory/")
    assert target.raw == raw
    assert target.segments[0] == "inventory"


@given(st.binary(max_size=40))
@examples(300)
def test_any_bytes_are_a_target_or_bad_request_and_nothing_else(raw: bytes) -> None:
    for candidate in (raw, b"/" + raw):
        target = accepted(candidate)
        if target is not None:
            assert target.raw == candidate
            assert target.path + (b"?" + target.query if b"?" in candidate else b"") == candidate


@given(st.lists(st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=5), max_size=4))
def test_segments_are_decoded_once(words: list[str]) -> None:
    from unicodedata import normalize  # the oracle's own means
    from urllib.parse import quote

    words = [normalize("NFKC", word) for word in words]
    if any(set("/\\%;?#.") & set(word) for word in words):
        return
    raw = ("/" + "/".join(quote(word, safe="") for word in words)).encode()
    assert parse_target(raw).segments == tuple(words)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"*",
        b"inventory",
        b"http://a/b",
        b"/..",
        b"/.",
        b"/a/../b",
        b"/a/./b",
        b"/a/%2e%2E/b",
        b"/a/.%2e",
        b"/a/..;/b",
        b"/a/..;x=1/b",
        b"/a/..%3b/b",
        b"/a/.;",
        b"/a/..%20/b",
        b"/a/%20../b",
        b"/a/..%2fb",
        b"/a/b%2f..",
        b"/a/b%2F.%2Fc",
        b"/a\\b",
        b"/a/%5C..%5Cb",
        b"/a%00",
        b"/a%0d%0aX:1",
        b"/a%09b",
        b"/a%7f",
        b"/a%C2%85",
        b"/%2569nventory",
        b"/a%252fb",
        b"/a%25%32%65",
        b"/a%zz",
        b"/a%",
        b"/a%2",
        b"/%u002e%u002e/a",
        b"/a%c0%af",
        b"/a%ff",
        b"/a%ed%a0%80",
        b"/..%ef%bc%8fa",
        b"/a%ef%bc%8fb",
        b"/%ef%bc%8e%ef%bc%8e/a",
        b"/%e2%80%a5/a",
        b"/a%ef%bc%bcb",
        b"/a%ef%b9%a8b",
        b"/..%ef%bc%9bx/a",
        b"/..%ef%bc%9fx/a",
        b"/%ef%bc%85%ef%bc%92%ef%bc%a6a",
        b"/%ef%bc%852e%ef%bc%852e/a",
        b"/%ef%bc%8500",
        b"/..%3fx/a",
        b"/\xef\xbc\x8e\xef\xbc\x8e/a",
        b"/a#b",
        b"/a?b#c",
        b"/a b",
        b"/a?b c",
        b'/a"b',
        b"/a<b>",
        b"/a`b",
        b"/a{b}",
        "/é".encode(),
        "/a?é".encode(),
    ],
)
def test_ambiguous_or_malformed(raw: bytes) -> None:
    with pytest.raises(GatewayError) as raised:
        parse_target(raw)
    assert raised.value.code == "bad_request"


@pytest.mark.parametrize(
    ("raw", "segments", "query"),
    [
        (b"/", (), b""),
        (b"/?", (), b""),
        (b"/a", ("a",), b""),
        (b"/a/", ("a",), b""),
        (b"/a/b", ("a", "b"), b""),
        (b"/.well-known/x", (".well-known", "x"), b""),
        (b"/a/...", ("a", "..."), b""),
        (b"/a..b/..c", ("a..b", "..c"), b""),
        (b"/%69nventory", ("inventory",), b""),
        (b"/caf%C3%A9/%E2%82%AC", ("café", "€"), b""),
        (b"/100%25", ("100%",), b""),
        (b"/a%3Fb%23c", ("a?b#c",), b""),
        (b"/a%20b/(x)'!*,2:@&=+$~", ("a b", "(x)'!*,2:@&=+$~"), b""),
        (b"/john.doe@wheels.com", ("john.doe@wheels.com",), b""),
        (b"/a?x=../../b&y=%2e%2e%2f%00&z[]=%zz", ("a",), b"x=../../b&y=%2e%2e%2f%00&z[]=%zz"),
        (b"/a??b=1?", ("a",), b"?b=1?"),
        (b"/pages/[id]-1.js", ("pages", "[id]-1.js"), b""),
        (b"/a|b/c^d", ("a|b", "c^d"), b""),
        (b"/%E8%B3%AA%E5%95%8F%EF%BC%9F", ("質問\uff1f",), b""),
        (b"/100%EF%BC%85.pdf", ("100\uff05.pdf",), b""),
        (b"/50%EF%BC%8520%E4%BB%A3", ("50\uff0520代",), b""),
        (b"/%E4%BD%A0%EF%BC%9B", ("你\uff1b",), b""),
        (b"/%EF%BC%831", ("\uff031",), b""),
        (b"/%CF%84%CE%B9%CD%BE", ("τι\u037e",), b""),
        (b"/Mr%EF%BC%8E", ("Mr\uff0e",), b""),
    ],
)
def test_accepted_as_it_came(raw: bytes, segments: tuple[str, ...], query: bytes) -> None:
    target = parse_target(raw)
    assert (target.raw, target.segments, target.query, target.oddities) == (raw, segments, query, frozenset())


@pytest.mark.parametrize(
    ("raw", "oddities"),
    [
        (b"/a%2fb", {"encoded_slash"}),
        (b"/a/%5cb", {"encoded_slash", "empty_segment"}),
        (b"/a%5Cb", {"encoded_slash"}),
        (b"/%2f", {"encoded_slash", "empty_segment"}),
        (b"//a", {"empty_segment"}),
        (b"//", {"empty_segment"}),
        (b"/a//b", {"empty_segment"}),
        (b"/a//", {"empty_segment"}),
        (b"/a;v=1", {"path_parameter"}),
        (b"/a%2f%2fb", {"encoded_slash", "empty_segment"}),
        (b"/a%2f/b", {"encoded_slash", "empty_segment"}),
        (b"/a;b//c%2Fd", {"encoded_slash", "empty_segment", "path_parameter"}),
    ],
)
def test_oddities_are_named_for_the_route_to_admit(raw: bytes, oddities: set[str]) -> None:
    assert parse_target(raw).oddities == oddities


@given(st.text(st.characters(codec="utf-8", min_codepoint=0x80), min_size=1, max_size=12))
@example("\uff0f")
@example("\uff3c")
@example("‥")
@example("\uff0e\uff0e\uff1ba")
@example("\uff05\uff12\uff26")
def test_a_character_is_refused_only_for_what_it_becomes(word: str) -> None:
    """Whoever applies NFKC sees the same segments; everything else passes byte for byte."""
    from unicodedata import normalize  # the oracle's own means
    from urllib.parse import quote, unquote

    raw = f"/inventory/{quote(word)}/x".encode()
    seen = unquote(normalize("NFKC", word))
    parts = {part.strip() for part in re.split(r"[;?#]", seen)[:1]}
    if any(mark in seen for mark in "/\\") or parts & {".", ".."} or re.search("[\x00-\x1f\x7f-\x9f]", word):
        assert accepted(raw) is None
    elif "%" not in seen:
        target = accepted(raw)
        assert target is not None
        assert (target.raw, target.segments) == (raw, ("inventory", word, "x"))


def test_a_long_target_is_refused_in_no_time() -> None:
    with pytest.raises(GatewayError):
        parse_target(b"/a" + b"/.." * 3000)
    assert len(parse_target(b"/a" * 4000).segments) == 4000
