"""Who may use the admin listener: every path, every way of asking, before anything else is looked at."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gateway.admin.app import admin_app
from gateway.admin.assets import HEADERS, PUBLIC_FILES
from gateway.admin.guard import AdminGuard
from gateway.model.settings import Address, ServerSettings

LOOPBACK = Address("127.0.0.1", 9901)
ANYWHERE = Address("0.0.0.0", 9901)
TOKEN = "correct horse"
POST = {"x-gateway-admin": "1"}
READ = ["/", "/status", "/status/stream", "/config", "/routes", "/breakers", "/health/systems"]
OPEN = ["/livez", "/readyz", "/metrics"]


def client(listen=LOOPBACK, *, token=None, hosts=(), host="127.0.0.1:9901", local=("127.0.0.1", 9901)):
    """A client of a guarded application that answers everything. `local` is the server's end of the connection."""
    app = Starlette(
        routes=[Route("/{path:path}", lambda _: PlainTextResponse("passed"), methods=["GET", "POST", "PUT", "OPTIONS"])]
    )
    guard = AdminGuard(app, listen=listen, token=token, hosts=frozenset(hosts))

    async def connected(scope, receive, send):
        await guard({**scope, "server": local}, receive, send)

    transport = httpx.ASGITransport(app=connected)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9901", headers={"host": host})


@pytest.mark.parametrize("host", ["127.0.0.1:9901", "localhost:9901", "LOCALHOST", "127.0.0.1", "[::1]:9901"])
async def test_the_listeners_own_names_are_known(host):
    assert (await client(host=host).get("/status")).text == "passed"


@pytest.mark.parametrize("path", [*READ, "/metrics", "/page.js", "/breakers/iam/open"])
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9901",
        "127.0.0.1.evil.example",
        "localhost.evil.example:9901",
        "127.0.0.1:9901@evil.example",
        "10.0.0.7:9901",
    ],
)
async def test_a_page_that_rebinds_its_name_to_us_gets_nothing(path, host):
    """DNS rebinding: the browser connects to loopback, and says the hostile name."""
    reply = await client(host=host).get(path)
    assert (reply.status_code, reply.headers["content-type"]) == (421, "application/problem+json")
    assert reply.headers["cache-control"] == "no-store"
    assert "evil" not in reply.text


async def test_configured_names_are_known():
    served = client(hosts=["gateway.internal"], host="gateway.internal:9901")
    assert (await served.get("/status")).text == "passed"


async def test_the_address_that_was_connected_to_is_a_name():
    """Prometheus asks a pod by its address; a listener on all addresses does not know them beforehand."""
    pod = client(ANYWHERE, token=TOKEN, host="10.0.0.7:9901", local=("10.0.0.7", 9901))
    assert (await pod.get("/metrics")).text == "passed"
    v6 = client(ANYWHERE, token=TOKEN, host="[fd00::7]:9901", local=("fd00::7", 9901))
    assert (await v6.get("/metrics")).text == "passed"
    other = client(ANYWHERE, token=TOKEN, host="10.0.0.8:9901", local=("10.0.0.7", 9901))
    assert (await other.get("/metrics")).status_code == 421


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
@pytest.mark.parametrize("host", ["", "gateway-admin:9901", "health.check"])
async def test_a_probe_may_name_any_host_or_none(path, host):
    assert (await client(ANYWHERE, token=TOKEN, host=host).get(path)).text == "passed"
    assert (await client(host=host).post(path, headers=POST)).status_code == 421
    assert (await client(host=host).get("/status")).status_code == 421


@pytest.mark.parametrize("path", READ)
async def test_off_loopback_the_token_is_needed(path):
    asked = client(ANYWHERE, token=TOKEN)
    reply = await asked.get(path)
    assert (reply.status_code, reply.headers["content-type"]) == (401, "application/problem+json")
    assert reply.headers["www-authenticate"].startswith("Bearer")
    for wrong in ("Bearer wrong", "Bearer", f"Basic {TOKEN}", TOKEN, "Bearer " + "x" * 5000, "Bearer \xe9"):
        refused = await asked.get(path, headers=[(b"authorization", wrong.encode("latin-1"))])
        assert refused.status_code == 401
    assert (await asked.get(path, headers={"authorization": f"bearer {TOKEN}"})).text == "passed"


@pytest.mark.parametrize("path", OPEN)
async def test_probes_and_metrics_do_without_the_token(path):
    assert (await client(ANYWHERE, token=TOKEN).get(path)).text == "passed"
    assert (await client(ANYWHERE, token=TOKEN).head(path)).status_code == 200
    assert (await client(ANYWHERE, token=TOKEN).post(path, headers=POST)).status_code == 401


async def test_a_browser_without_token_is_shown_where_to_put_it():
    """401 all the same; the page itself tells nothing, and its files are everybody's."""
    reply = await client(ANYWHERE, token=TOKEN).get("/", headers={"accept": "text/html,*/*"})
    assert (reply.status_code, reply.headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert reply.headers["content-security-policy"] == HEADERS["content-security-policy"]
    for name in PUBLIC_FILES:
        assert (await client(ANYWHERE, token=TOKEN).get(f"/{name}")).text == "passed"


@pytest.mark.parametrize("path", ["/-/reload", "/-/drain", "/cache/purge", "/breakers/iam/open", "/status"])
@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS"])
async def test_a_change_needs_the_header_that_no_form_can_send(path, method):
    asked = client()
    assert (await asked.request(method, path)).status_code == 403
    assert (await asked.request(method, path, headers={"x-gateway-admin": "0"})).status_code == 403
    assert (await asked.request(method, path, headers=POST)).text == "passed"


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://127.0.0.1:3000",
        "http://localhost:9901",
        "http://127.0.0.1:9901.evil.example",
        "garbage",
        "",
    ],
)
async def test_a_change_from_a_foreign_page_is_refused(origin):
    reply = await client().post("/-/reload", headers={**POST, "origin": origin})
    assert (reply.status_code, reply.headers["content-type"]) == (403, "application/problem+json")


async def test_a_change_from_our_own_page_passes():
    assert (await client().post("/-/reload", headers={**POST, "origin": "http://127.0.0.1:9901"})).text == "passed"
    named = client(hosts=["gateway.internal"], host="gateway.internal")
    assert (await named.post("/-/reload", headers={**POST, "origin": "https://gateway.internal"})).text == "passed"


def test_every_path_of_the_listener_is_documented():
    app = admin_app(Mock(), ServerSettings(), Mock())
    text = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    paths = {route.path for route in app._app.routes} - {f"/{name}" for name in PUBLIC_FILES} - {"/"}
    assert len(paths) > 12
    for path in paths:
        start, name, rest = path.partition("{name}")
        assert f"`{start}" in text or f"POST {start}" in text or f"GET {start}" in text, path
        assert not name or f"`{rest}`" in text or f"{{name}}{rest}`" in text, path


async def test_two_hosts_are_no_host():
    asked = client()
    reply = await asked.get("/status", headers=[("host", "127.0.0.1:9901"), ("host", "evil.example")])
    assert reply.status_code == 421


@pytest.mark.parametrize("origin", ["http://[::1", "http://]", "http://[v1.x", "http://a\u00bd/"])
async def test_an_origin_that_is_none_is_a_bad_request(origin):
    reply = await client().post("/-/reload", headers={**POST, "origin": origin.encode("latin-1")})
    assert reply.status_code in (400, 403)
    assert reply.headers["content-type"] == "application/problem+json"


async def test_half_an_address_is_a_bad_request():
    assert (await client().post("/-/reload", headers={**POST, "origin": "http://[::1"})).status_code == 400
