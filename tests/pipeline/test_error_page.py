"""People in browsers see a page when the gateway refuses or fails; programs get problem+json as ever."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import pytest

from gateway.app.composition import compose
from gateway.app.shared import Parts
from gateway.config import load
from gateway.forwarded import RequestBuilder
from gateway.pipeline import Pipeline
from gateway.telemetry.observer import Observer

OWN = "<!doctype html><html><head><title>Shop</title></head><body>{status} {title} {retry_after}s {color}</body></html>"
ROUTES = """
version: 1
iam: {url: http://127.0.0.1:1, timeout: {total: 100ms}, retry: {attempts: 1}}
identity: {header: {name: X-User}}
server: {trusted_proxies: [127.0.0.1]}
upstreams: {shop: {url: http://127.0.0.1:2}}
routes:
  - {id: plain, path: /plain/*, upstream: shop, authorize: [read a:b], error_page: {}}
  - {id: own, path: /own/*, upstream: shop, authorize: [read a:b], error_page: {html: own.html}}
  - {id: without, path: /without/*, upstream: shop, authorize: [read a:b]}
"""
FIREFOX = b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
SCRIPT = "<script>alert(1)</script>"


class Edge:
    client_left = False
    host = "gateway"

    def __init__(self, target: bytes) -> None:
        self.raw_target = target
        self.sent: tuple[int, dict[bytes, bytes], bytes] | None = None

    def respond(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        self.sent = (status, dict(headers), body)
        return True


async def nothing(*_: Any) -> Any:
    raise AssertionError("the body was read, or a message was sent")


@pytest.fixture
async def ask(tmp_path):
    (tmp_path / "routes.yaml").write_text(ROUTES)
    (tmp_path / "own.html").write_text(OWN)
    composition = compose(load(tmp_path / "routes.yaml", {}), Observer(), Parts())
    composition.parts.settle()

    async def run(target: bytes, accept: bytes = FIREFOX, method: str = "GET", *more: tuple[bytes, bytes]):
        edge = Edge(target)
        headers = [(b"x-user", b"alice"), *([(b"accept", accept)] if accept else []), *more]
        scope = {
            "type": "http",
            "method": method,
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "scheme": "http",
            "http_version": "1.1",
            "extensions": {"gateway.edge": edge},
        }
        await Pipeline(composition.site, Observer(), RequestBuilder())(scope, nothing, nothing)
        assert edge.sent is not None
        return edge.sent

    yield run
    await composition.parts.release()


async def test_a_person_sees_the_seconds_on_a_page_that_loads_itself_again(ask):
    status, fields, body = await ask(b"/plain/x")
    wait = fields[b"retry-after"].decode()
    assert (status, fields[b"content-type"]) == (503, b"text/html; charset=utf-8")
    assert f'<meta http-equiv="refresh" content="{wait}">' in body.decode()
    assert f"Try again in {wait} second" in body.decode()
    assert fields[b"x-request-id"].decode() in body.decode()


async def test_the_page_has_the_status_and_headers_of_the_problem(ask):
    status, fields, _ = await ask(b"/plain/x")
    expected, of_json, body = await ask(b"/plain/x", b"application/json")
    assert status == expected == json.loads(body)["status"]
    same = [b"cache-control", b"proxy-status", b"retry-after"]
    assert [fields[name] for name in same] == [of_json[name] for name in same]


PROGRAMS = [b"", b"*/*", b"application/json", b"application/json, text/html", b"application/problem+json;q=1,text/html"]
PROGRAMS += [b"text/html;q=0", b"text/html;q=x", b"text/*", b"text/html;q=0.5, application/json"]


@pytest.mark.parametrize("accept", PROGRAMS)
async def test_programs_get_problem_json(ask, accept):
    _, fields, body = await ask(b"/plain/x", accept)
    assert fields[b"content-type"] == b"application/problem+json"
    assert json.loads(body)["code"].startswith("iam_")


@pytest.mark.parametrize("accept", [b"text/html", b"TEXT/HTML ; charset=utf-8", b"text/html, application/json;q=0.9"])
async def test_who_prefers_html_is_a_person(ask, accept):
    assert (await ask(b"/plain/x", accept))[1][b"content-type"].startswith(b"text/html")


async def test_a_route_without_a_page_and_no_route_at_all_answer_problem_json(ask):
    for target in (b"/without/x", b"/nowhere"):
        assert (await ask(target))[1][b"content-type"] == b"application/problem+json"


async def test_a_page_of_ones_own_is_filled_in_and_reloads_though_it_does_not_say_so(ask):
    _, fields, body = await ask(b"/own/x")
    wait = fields[b"retry-after"].decode()
    refresh = f'<head><meta http-equiv="refresh" content="{wait}">'
    assert body.decode() == OWN.replace("<head>", refresh).replace("{status}", "503").replace(
        "{title}", "Authorization service unavailable"
    ).replace("{retry_after}", wait)


async def test_only_get_is_loaded_again_and_head_has_no_body(ask):
    assert b"refresh" not in (await ask(b"/plain/x", FIREFOX, "POST"))[2]
    _, fields, body = await ask(b"/plain/x", FIREFOX, "HEAD")
    assert (body, int(fields[b"content-length"]) > 0) == (b"", True)


async def test_nothing_of_the_request_is_shown_as_markup(ask):
    for target in (b"/plain/%3Cscript%3E", b"/plain/x?q=%3Cscript%3Ealert(1)"):
        _, _, body = await ask(target, FIREFOX, "GET", (b"x-request-id", SCRIPT.encode()), (b"referer", b"<script>"))
        assert b"script" not in body.lower()


async def test_the_policy_forbids_all_but_the_pages_own_style(ask):
    _, fields, body = await ask(b"/plain/x")
    (style,) = re.findall(rb"<style>(.*?)</style>", body, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style).digest())
    policy = fields[b"content-security-policy"]
    assert policy.startswith(b"default-src 'none'; ")
    assert policy.endswith(b"style-src 'sha256-" + digest + b"'")
    assert b"unsafe" not in policy
    assert b"style-src" not in (await ask(b"/own/x"))[1][b"content-security-policy"]
