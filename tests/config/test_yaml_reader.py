"""What is not YAML 1.2, or not one reasonable document, is one clear line with its place."""

from __future__ import annotations

import pytest
import yaml

from gateway.config import yaml_reader
from gateway.config.problems import Problems
from gateway.config.tree import Node, locate, plain
from gateway.config.yaml_reader import MAX_BYTES, MAX_DEPTH, read_yaml


def read(content: bytes | str) -> tuple[Node | None, list[str]]:
    problems = Problems()
    data = content.encode() if isinstance(content, str) else content
    return read_yaml("f.yaml", data, problems), [str(problem) for problem in problems.errors]


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def _both_parsers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled parser where there is one, else the one in Python: the same promises."""
    monkeypatch.setattr(yaml_reader, "_LOADER", getattr(yaml, request.param))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "f.yaml:1:1: error[empty-file]: the file is empty"),
        ("# only a comment\n", "f.yaml:1:1: error[empty-file]: the file is empty"),
        ("~\n", "f.yaml:1:1: error[empty-file]: the file is empty"),
        ("- a\n- b\n", "f.yaml:1:1: error[wrong-type]: the file must be a mapping: lines of `key: value`"),
        ("word\n", "f.yaml:1:1: error[wrong-type]: the file must be a mapping: lines of `key: value`"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1: error[several-documents]: there is a second document; only one is allowed"),
        ("a: 1\nb: 2\na: 3\n", 'f.yaml:3:1: error[duplicate-key]: "a" is already set in line 1'),
        ("a: {b: 1, b: 2}\n", 'f.yaml:1:11: error[duplicate-key]: "b" is already set in line 1'),
        ("a: !!str x\n", "f.yaml:1:4: error[yaml-tag]: tags (`!…`) are not supported"),
        ("a: !python/object:os.system x\n", "f.yaml:1:4: error[yaml-tag]: tags (`!…`) are not supported"),
        ("a: *b\n", "f.yaml:1:4: error[unknown-anchor]: there is no anchor &b before this alias"),
        ("a: &a [*a]\n", "f.yaml:1:8: error[unknown-anchor]: there is no anchor &a before this alias"),
        ("a:\n\tb: 1\n", "f.yaml:2:1: error[yaml-syntax]: a tab; YAML is indented with spaces"),
        ("a: {b: ${X}}\n", "f.yaml:1:9: error[yaml-syntax]: `${…}` must be quoted inside { } and [ ]"),
        ("a: [${X}]\n", "f.yaml:1:6: error[yaml-syntax]: `${…}` must be quoted inside { } and [ ]"),
        ("a: @b\n", "f.yaml:1:4: error[yaml-syntax]: text that starts with @ must be quoted"),
        (
            "{a: 1}: b\n",
            "f.yaml:1:1: error[bad-key]: a key must be a word; text that starts with { or [ must be quoted",
        ),
        ("a: .inf\n", 'f.yaml:1:4: error[bad-number]: ".inf": this number is not finite'),
        ("a: 1e999\n", 'f.yaml:1:4: error[bad-number]: "1e999": this number is not finite'),
        (b"\xef\xbb\xbfa: 1\n", "f.yaml:1:1: error[byte-order-mark]"),
        (b"\xff\xfea\x00", "f.yaml:1:1: error[byte-order-mark]"),
        (b"a: 1\nb: \xff\n", "f.yaml:2:4: error[not-utf-8]: byte 0xff is not UTF-8"),
        (b"a: 1\nb: x\x00y\n", "f.yaml:2:5: error[control-character]: the character U+0000 is not allowed here"),
        ("a: x\u2028y\n", "f.yaml:1:5: error[control-character]: the character U+2028 is not allowed here"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(content, line) -> None:
    _, errors = read(content)
    assert len(errors) == 1
    assert errors[0].startswith(line)


@pytest.mark.parametrize(
    "content", ["a: [1,\n", "a: b: c\n", "a: 'x\n", "a: {b: /x/{c}}\n", "%FOO\n", "a: [\n]b\n", "}"]
)
def test_any_other_mistake_of_syntax_is_one_line(content) -> None:
    node, errors = read(content)
    assert node is None
    assert len(errors) == 1
    assert "error[yaml-syntax]" in errors[0]
    assert "\n" not in errors[0]


def test_text_in_braces_inside_a_flow_mapping_is_told_to_be_quoted() -> None:
    _, errors = read("a: {b: /x/{c}}\n")
    assert "must be quoted inside { } and [ ]" in errors[0]


def test_mistakes_that_leave_the_shape_readable_are_all_noted() -> None:
    node, errors = read("a: 1\na: 2\nb: !x y\nc: .nan\n")
    assert len(errors) == 3
    assert node is not None
    assert plain(node) == {"a": 1, "b": "y", "c": 0}


def test_keys_and_values_know_their_places() -> None:
    node, _ = read("a:\n  - {b: 1}\n  - c: [x, y]\n")
    assert node is not None
    assert (locate(node, ("a", 1, "c", 1)).line, locate(node, ("a", 1, "c", 1)).col) == (3, 12)
    assert locate(node, ("a", 0, "b"), key=True).col == 6
    assert locate(node, ("a", 0, "missing")).col == 5


def test_keys_are_text_whatever_they_look_like() -> None:
    node, errors = read("on: 1\n404: 2\nnull: 3\n")
    assert not errors
    assert node is not None
    assert plain(node) == {"on": 1, "404": 2, "null": 3}


def test_windows_line_ends_are_read() -> None:
    node, errors = read("a: 1\r\nb: x\r\n")
    assert not errors
    assert node is not None
    assert plain(node) == {"a": 1, "b": "x"}


@pytest.mark.parametrize("text", ['a: "\\ud800"\n', '"\\udfff": 1\n'])
def test_half_a_character_is_refused(text) -> None:
    _, errors = read(text)
    assert len(errors) == 1
    assert "error[yaml-syntax]" in errors[0]


def test_a_directive_for_yaml_1_2_is_read() -> None:
    assert read("%YAML 1.2\n---\na: 1\n...\n")[1] == []


def test_aliases_are_read_at_their_anchor_s_place() -> None:
    node, errors = read("a: &x [1, 2]\nb: *x\n")
    assert not errors
    assert node is not None
    assert plain(node) == {"a": [1, 2], "b": [1, 2]}
    assert locate(node, ("b", 0)).line == 1


def test_aliases_can_t_become_a_large_tree() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    node, errors = read("\n".join(lines))
    assert node is None
    assert "error[too-many-values]" in errors[0]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_is_refused(opening) -> None:
    node, errors = read("a: " + opening * 20_000 if opening != "- " else "- " * 20_000)
    assert node is None
    assert len(errors) == 1


def test_nesting_up_to_the_limit_is_read() -> None:
    depth = MAX_DEPTH - 1
    node, errors = read("a: " + "[" * depth + "]" * depth + "\n")
    assert node is not None
    assert not errors


def test_a_file_over_the_limit_is_refused_unread() -> None:
    _, errors = read("a: " + "x" * MAX_BYTES)
    assert errors == ["f.yaml:1:1: error[file-too-large]: the file is larger than 1024 KiB"]
