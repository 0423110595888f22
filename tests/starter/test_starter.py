"""`gateway init`: what it writes always validates, says what it left out with its line, and opens nothing."""

from __future__ import annotations

import contextlib
import string
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.cli import app
from gateway.config import load
from gateway.model.route import AccessKind, ProxyAction
from gateway.starter import NotUnderstoodError, read_foreign, starter
from gateway.starter.block_files import read_blocks
from gateway.starter.draft import Draft
from tests.support.command_line import CliRunner
from tests.support.properties import examples

NGINX = """
http {
  upstream shop { server 10.0.0.1:80; server 10.0.0.2:80 weight=2; }
  server {
    listen 80;
    server_name shop.example _;
    location / { proxy_pass http://shop; proxy_set_header Host $host; }
    location = /exact { proxy_pass http://127.0.0.1:9001; }
    location /api/ { proxy_pass http://127.0.0.1:9001/; }
    location ~ \\.php$ { proxy_pass http://127.0.0.1:9001; }
    location /var { proxy_pass "http://${backend}"; }
  }
}
"""
CADDY = """
{
  email a@b.example
}
shop.example {
  reverse_proxy /api/* localhost:9001 {
    header_up X-A {host}
  }
  handle_path /static/* {
    reverse_proxy :9002
  }
  file_server # not here
}
"""
TRAEFIK = """
http:
  routers:
    api: {rule: "Host(`shop.example`) && PathPrefix(`/api`)", service: api, middlewares: [strip, other]}
    odd: {rule: "HostRegexp(`.*`)", service: api}
  middlewares:
    strip: {stripPrefix: {prefixes: [/api]}}
  services:
    api: {loadBalancer: {servers: [{url: "http://10.0.0.1:80/"}]}}
"""
OPENAPI = """
openapi: 3.1.0
servers: [{url: https://pets.example/v1}]
paths:
  /pets: {get: {}, post: {}}
  /pets/{petId}: {delete: {}}
  /odd/{a}.json: {get: {}}
"""


@pytest.mark.parametrize(
    ("name", "text", "paths", "left_out"),
    [
        (
            "nginx.conf",
            NGINX,
            {("shop.example", "/*", None), ("shop.example", "/exact", None), ("shop.example", "/api/*", b"/api")},
            ["nginx.conf:7: ", "nginx.conf:10: ", "nginx.conf:11: "],
        ),
        (
            "Caddyfile",
            CADDY,
            {("shop.example", "/api/*", None), ("shop.example", "/static/*", b"/static")},
            ["Caddyfile:2: ", "Caddyfile:7: ", "Caddyfile:12: "],
        ),
        ("traefik.yml", TRAEFIK, {("shop.example", "/api/*", b"/api")}, ["traefik.yml:4: ", "traefik.yml:5: "]),
        ("api.yaml", OPENAPI, {(None, "/v1/pets", None), (None, "/v1/pets/{petId}", None)}, ["api.yaml:7: "]),
    ],
)
def test_what_is_understood_of_a_file_serves_and_the_rest_is_named_with_its_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    text: str,
    paths: set[tuple[str | None, str, bytes | None]],
    left_out: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text)
    ended = CliRunner().invoke(app, ["init", "--from", name])
    assert ended.exit_code == 0, ended.output
    configuration = load(Path("routes.yaml"), {})
    found = set()
    for route in configuration.routes:
        assert isinstance(route.action, ProxyAction)
        assert all(access.kind is AccessKind.CHECKS for access in route.access.values())
        found.add((route.host, route.path, route.action.strip_prefix))
    assert found == paths
    for place in left_out:
        assert f"left out: {place}" in ended.output


def test_two_answers_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["init", "--upstream", "http://127.0.0.1:7", "--iam", "http://127.0.0.1:8"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    configuration = load(Path("routes.yaml"), {})
    assert [upstream.urls for upstream in configuration.upstreams.values()] == [("http://127.0.0.1:7",)]
    assert configuration.iam.urls == ("http://127.0.0.1:8",)


def test_a_gateway_that_decides_by_itself_gets_first_policies_that_pass_their_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["init", "--iam", "embedded"]).exit_code == 0
    assert load(Path("routes.yaml"), {}).access_policies == tmp_path / "policies" / "access"
    tested = CliRunner().invoke(app, ["policy", "test"])
    assert (tested.exit_code, tested.stdout.count("pass\t")) == (0, 3)


def test_policies_that_are_there_are_left_as_they_are_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    entities = Path("policies/access/entities.json")
    entities.parent.mkdir(parents=True)
    entities.write_text("[]")
    ended = CliRunner().invoke(app, ["init", "--iam", "embedded"])
    assert ended.exit_code == 1
    assert "entities.json exists already" in ended.output
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [tmp_path / entities]
    assert entities.read_text() == "[]"


def test_the_service_can_be_named_where_openapi_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("openapi.json").write_text('{"openapi": "3.1.0", "paths": {"/orders/{id}": {"get": {}}}}')
    arguments = ["init", "--from", "openapi.json", "--upstream", "http://127.0.0.1:8000"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert [one.urls for one in load(Path("routes.yaml"), {}).upstreams.values()] == [("http://127.0.0.1:8000",)]


def test_a_file_that_is_there_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("routes.yaml").write_text("mine")
    ended = CliRunner().invoke(app, ["init"])
    assert (ended.exit_code, Path("routes.yaml").read_text()) == (1, "mine")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--upstream", "ftp://x"], "http:// or https://"),
        (["--iam", "nowhere"], "nothing was written"),
        (["--from", "missing.conf"], "No such file"),
        (["--from", "odd.txt"], "is expected"),
        (["--from", "broken.conf"], "broken.conf:2: this block is not closed"),
        (["--from", "empty.yaml"], "no route was understood"),
    ],
)
def test_what_is_of_no_use_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd.txt").write_text("x")
    Path("broken.conf").write_text("\nserver {\n location / { proxy_pass http://a; }\n")
    Path("empty.yaml").write_text("a: 1\n")
    ended = CliRunner().invoke(app, ["init", *arguments])
    assert (ended.exit_code, Path("routes.yaml").exists()) == (1, False)
    assert words in ended.output


TEXTS = st.text(alphabet=string.ascii_letters + string.digits + "/.*{}$:;#\"'`\\ \n@_-é", max_size=80)


@given(path=TEXTS, host=TEXTS, url=TEXTS, strip=st.sampled_from(["", "/a"]))
@examples(80)
def test_whatever_a_draft_is_made_of_it_validates(tmp_path: Path, path: str, host: str, url: str, strip: str) -> None:
    draft = Draft("foreign")
    upstream = draft.upstream([url], 1) or draft.upstream(["http://127.0.0.1:1"], 1)
    draft.route("/a/*", upstream, 1, strip=strip)
    draft.route(path, upstream, 2, host=host)
    draft.route("/" + path, upstream, 3)
    (tmp_path / "routes.yaml").write_text(starter(draft, "http://127.0.0.1:8181"))
    load(tmp_path / "routes.yaml", {})


@given(text=TEXTS)
@examples(100)
@pytest.mark.parametrize("by_line", [True, False])
def test_any_text_is_blocks_or_not_understood(text: str, *, by_line: bool) -> None:
    with contextlib.suppress(NotUnderstoodError):
        assert all(directive.line >= 1 for directive in read_blocks("x", text, by_line=by_line))


def test_read_foreign_takes_a_file_by_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "dynamic.json").write_text('{"paths": {"/x": {"get": {}}}}')
    assert [route.path for route in read_foreign(tmp_path / "dynamic.json").routes] == ["/x"]


def test_completion_is_a_script_for_each_shell() -> None:
    for shell in ("bash", "zsh", "fish"):
        ended = CliRunner().invoke(app, ["completion", shell])
        assert ended.exit_code == 0
        assert "_GATEWAY_COMPLETE" in ended.output
    assert CliRunner().invoke(app, ["completion", "csh"]).exit_code == 2
