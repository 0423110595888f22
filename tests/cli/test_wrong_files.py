"""Whatever is wrong with a file, every command that reads it says so in lines with a place, and ends with 1."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.cli.conftest import CONFIGURATION, Run

LINE = re.compile(r"[^\n]+:\d+:\d+: (error|warning)\[[a-z0-9-]+\]: [^\n]+")
WRONG: dict[str, bytes] = {
    "empty": b"",
    "blank": b"\n  \n",
    "null": b"null\n",
    "a list": b"- version: 1\n",
    "a scalar": b"hello\n",
    "tabs": b"version: 1\n\tiam: {}\n",
    "unclosed": b"version: [1\n",
    "unquoted colon": b"version: 1: 2\n",
    "duplicate key": b"version: 1\nversion: 1\n",
    "byte order mark": b"\xef\xbb\xbfversion: 1\n",
    "UTF-16": "version: 1\n".encode("utf-16"),
    "Latin-1": b"version: 1 # \xff\n",
    "NUL": b"version: 1\x00\n",
    "control character": b"version: 1\x07\n",
    "half a surrogate pair": b'version: "\\uD800"\n',
    "two documents": b"version: 1\n---\nversion: 1\n",
    "a Python object": b'version: !!python/object/apply:os.system ["id"]\n',
    "an unknown tag": b"version: !x 1\n",
    "too deep in brackets": b"version: " + b"[" * 20000 + b"]" * 20000,
    "too deep in blocks": b"".join(b" " * level + b"a:\n" for level in range(500)),
    "an alias of nothing": b"version: *nope\n",
    "an alias of itself": b"a: &a [*a]\n",
    "many aliases": b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "a merge key": b"a: &a {x: 1}\nb: {<<: *a}\n",
    "a list as key": b"? [1, 2]\n: 3\n",
    "an empty key": b'"": 1\n',
    "a null key": b"~: 1\n",
    "a huge number": b"version: 1" + b"0" * 5000 + b"\n",
    "a fraction": b"version: 1.0\n",
    "infinity": b"version: .inf\n",
    "a truth": b"version: true\n",
    "another version": CONFIGURATION.replace("version: 1", "version: 2").encode(),
    "an unset variable": CONFIGURATION.replace("http://127.0.0.1:9001", "${GATEWAY_TEST_UNSET}").encode(),
    "an unknown upstream": CONFIGURATION.replace("upstream: stock", "upstream: stocks").encode(),
    "an unknown key": CONFIGURATION.replace("authorize: public", "authorise: public").encode(),
    "no authorize": CONFIGURATION.replace(", authorize: authenticated}", "}").encode(),
    "routes that tie": CONFIGURATION.replace("/open/*", "/inventory/*").encode(),
    "not a URL": CONFIGURATION.replace("http://127.0.0.1:9001", "127.0.0.1:9001").encode(),
    "a bad duration": CONFIGURATION.replace("300ms", "soon").encode(),
    "random bytes": bytes(range(256)),
}
READERS = (
    ("validate", "FILE"),
    ("routes", "-c", "FILE"),
    ("explain", "GET /open/x", "-c", "FILE"),
    ("serve", "-c", "FILE"),
)


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_reported_with_places(run: Run, folder: Path, kind: str) -> None:
    (folder / "wrong.yaml").write_bytes(WRONG[kind])
    for command in READERS:
        ran = run(*("wrong.yaml" if word == "FILE" else word for word in command))
        ran.says(1)
        assert ran.out == ""
        lines = ran.err.splitlines()
        assert lines
        assert all(LINE.fullmatch(line) and line.startswith("wrong.yaml:") for line in lines), ran.err
        assert any("error[" in line for line in lines)


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize(
    "name", ["missing.yaml", "nowhere/routes.yaml", ".", "routes.yaml/x", "fifo", "", "unreadable"]
)
def test_a_file_that_cannot_be_read_is_one_line(run: Run, folder: Path, command: tuple[str, ...], name: str) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "unreadable").symlink_to("unreadable")
    run(*(name if word == "FILE" else word for word in command)).refuses(1, "error[unreadable-file]")


def test_all_mistakes_are_reported_at_once_in_order(run: Run, folder: Path) -> None:
    text = CONFIGURATION.replace("upstream: stock", "upstream: stok").replace("authorize: public", "autorize: public")
    (folder / "wrong.yaml").write_text(text)
    ran = run("validate", "wrong.yaml")
    ran.says(1, err='did you mean "stock"')
    lines = [int(line.split(":")[1]) for line in ran.err.splitlines()]
    assert len(lines) >= 4
    assert lines == sorted(lines)


def test_mistakes_as_json_are_data(run: Run, folder: Path) -> None:
    (folder / "wrong.yaml").write_text(CONFIGURATION.replace("upstream: stock", "upstream: stok"))
    ran = run("validate", "wrong.yaml", "--output", "json")
    ran.says(1)
    assert ran.err == ""
    document = json.loads(ran.out)
    assert document["valid"] is False
    first = document["problems"][0]
    assert first.items() >= {"file": "wrong.yaml", "line": 9, "severity": "error"}.items()
    assert {"col", "id", "message"} <= set(first)


def test_a_valid_file_shows_what_happens_when_iam_is_down(run: Run) -> None:
    ran = run("validate")
    ran.says(0, out="if IAM is down: ")
    assert "serves stale up to 60s" in ran.out
    document = json.loads(run("validate", "--output", "json").out)
    assert document["valid"] is True
    assert document["summary"] in ran.out
    assert {"route", "path", "methods", "outcome"} <= set(document["routes"][0])


def test_warnings_are_diagnostics_and_do_not_fail(run: Run, folder: Path) -> None:
    (folder / "routes.yaml").write_text(CONFIGURATION.replace("methods: [GET], authorize: public", "authorize: public"))
    ran = run("validate")
    ran.says(0, out="valid", err="warning[")
    assert "warning[" not in ran.out


def test_mistakes_in_the_access_policies_are_mistakes_of_the_configuration(run: Run, folder: Path) -> None:
    (folder / "policies" / "access").mkdir(parents=True)
    (folder / "policies" / "access" / "wrong.cedar").write_text("permit (principal, action, resource) whenever;\n")
    ran = run("validate")
    ran.says(1, err="policies/access/wrong.cedar:1:")
    assert "error[" in ran.err
