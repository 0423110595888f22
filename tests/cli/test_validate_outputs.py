"""`gateway validate`: for pipelines, and for who wrote what somebody else would have written too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli import app
from tests.support.command_line import CliRunner

HEAD = """version: 1
upstreams: {shop: {url: "http://127.0.0.1:9001"}}
iam: {url: "http://127.0.0.1:9000"}
identity: {opaque: {}}
"""
ROUTE = "routes:\n  - {id: a, path: '/a/{id}', upstream: shop, %s}\n"
WARNED = HEAD + ROUTE % 'authorize: ["read thing:x"], deadline: 500ms'


def validate(tmp_path: Path, text: str, *options: str) -> tuple[int, str]:
    file = tmp_path / "routes.yaml"
    file.write_bytes(text.encode())
    result = CliRunner().invoke(app, ["validate", str(file), *options])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + ROUTE % 'authorize: "read system:x"', 'checks are a list: ["read system:x"]'),
        (HEAD + ROUTE % 'authorize: ["read thing:{path.id"]', 'a "{" is not closed'),
        (HEAD + ROUTE % 'authorize: ["read thing:x"], policy: fail-open', 'did you mean "fail-closed"?'),
        (HEAD + ROUTE % 'authorize: ["read thing:x"], policy: fail-open', "degrade: allow"),
        (HEAD + ROUTE % "authorize: public" + "server: {listen: 8080}", 'write HOST:PORT, like "127.0.0.1:8080"'),
        ("\ufeff" + HEAD, '"UTF-8", not "UTF-8 with BOM"'),
    ],
)
def test_a_usual_slip_is_told_how_it_is_written(tmp_path: Path, text: str, says: str) -> None:
    code, output = validate(tmp_path, text)
    assert code == 1
    assert says in output


def test_a_deadline_that_iam_cannot_keep_is_a_warning(tmp_path: Path) -> None:
    code, output = validate(tmp_path, WARNED)
    assert code == 0
    assert "(0.5s) ends before iam.timeout.total (2.5s)" in output
    assert "ends before" not in validate(tmp_path, WARNED.replace("500ms", "2600ms"))[1]
    assert "ends before" not in validate(tmp_path, HEAD + ROUTE % "authorize: public, deadline: 500ms")[1]


@pytest.mark.parametrize("output", ["text", "json", "github"])
def test_strict_refuses_a_warning_and_nothing_else(tmp_path: Path, output: str) -> None:
    assert validate(tmp_path, WARNED, "--strict", "--output", output)[0] == 1
    assert validate(tmp_path, WARNED.replace("500ms", "5s"), "--strict", "--output", output)[0] == 0


def test_warnings_have_the_form_of_mistakes_in_json(tmp_path: Path) -> None:
    code, output = validate(tmp_path, WARNED, "--output", "json")
    (warning,) = json.loads(output)["warnings"]
    assert (code, warning["severity"], warning["id"], warning["line"]) == (0, "warning", "contradiction", 6)
    (refused,) = json.loads(validate(tmp_path, WARNED, "--strict", "--output", "json")[1])["problems"]
    assert refused == warning


def test_github_shows_each_at_its_line(tmp_path: Path) -> None:
    text = WARNED.replace("upstream: shop", "upstream: 'sh%op'")
    line = next(line for line in validate(tmp_path, text, "--output", "github")[1].splitlines() if "sh%25op" in line)
    assert line.startswith(f"::error file={tmp_path}/routes.yaml,line=6,col=")
    assert ",title=bad-name::" in line
