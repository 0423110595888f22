"""`gateway export envoy`: a real Envoy takes what is printed, and carries HTTP/2 to the gateway."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from gateway.config import load
from gateway.config.proxies.envoy import Places, bootstrap, warnings
from gateway.model.settings import Address
from tests.e2e.conftest import GatewayProcess, free_port
from tests.production import http3
from tests.production.authority import Authority
from tests.production.backends import Backend, routes, until

pytestmark = pytest.mark.hazard

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
integration = pytest.mark.integration
MORE = """
  - {id: one, path: "/open/{item}", upstream: backend, authorize: public, methods: [GET], deadline: 3s}
  - {id: exact, path: /open/new, upstream: backend, authorize: public, methods: [POST]}
  - {id: elsewhere, path: /open/*, host: other.example, upstream: backend, authorize: public, methods: [GET]}
  - {id: systems, path: /systems, health: {}, authorize: public, methods: [GET], deadline: 4s}
"""
TRUSTS_ENVOY = ", trusted_proxies: [127.0.0.0/8]"


async def _run(*command: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, output.decode(), errors.decode()


async def _export(file: Path, *arguments: str) -> tuple[int | None, str, str]:
    return await _run(sys.executable, "-m", "gateway", "export", "envoy", "-c", str(file), *arguments)


@pytest.fixture
def file(tmp_path: Path, iam: Any, backend: Backend) -> Path:
    text = routes(iam, backend, server=TRUSTS_ENVOY, more=MORE)
    (tmp_path / "routes.yaml").write_text(text.replace("{port}", "8080").replace("{admin}", "9901"))
    return tmp_path / "routes.yaml"


def _replace(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text().replace(old, new))


def _hosts(file: Path) -> dict[str, list[dict[str, Any]]]:
    places = Places(Address("0.0.0.0", 10080), Address("127.0.0.1", 9902))
    document = bootstrap(load(file, {}), places)
    (listener,) = document["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return {host["name"]: host["routes"] for host in manager["route_config"]["virtual_hosts"]}


def test_the_most_specific_route_comes_first_and_every_path_leads_to_the_gateway(file: Path) -> None:
    hosts = _hosts(file)
    names = [route["name"] for route in hosts["any"]]
    assert names[-1] == "unknown"
    assert names.index("exact") < names.index("one") < names.index("open")
    assert hosts["other.example"][0]["name"] == "elsewhere"
    assert {route["route"]["cluster"] for each in hosts.values() for route in each} == {"gateway"}
    assert hosts["any"][-1]["match"] == {"prefix": "/"}


def test_documents_have_a_deadline_and_streams_an_idle_limit(file: Path) -> None:
    """A download may take as long as it flows; what is one document has the route's deadline and a second."""
    by_name = {route["name"]: route["route"] for route in _hosts(file)["any"]}
    assert by_name["systems"]["timeout"] == "5s"
    assert (by_name["open"]["timeout"], by_name["open"]["idle_timeout"]) == ("0s", "301s")


def test_it_is_said_when_the_gateway_does_not_trust_envoy(file: Path) -> None:
    assert warnings(load(file, {})) == []
    file.write_text(file.read_text().replace(TRUSTS_ENVOY, ""))
    assert "every caller will look like Envoy" in warnings(load(file, {}))[0]


async def test_a_bad_file_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "routes.yaml").write_text("version: 1\n")
    code, output, errors = await _export(tmp_path / "routes.yaml")
    assert (code, output) == (1, "")
    assert "error[" in errors


async def test_client_certificates_cannot_be_passed_on(file: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    tls = f"{{cert_file: {pair.cert}, key_file: {pair.key}, client_ca_file: {authority.file}}}"
    _replace(file, TRUSTS_ENVOY, f"{TRUSTS_ENVOY}, tls: {tls}")
    code, output, errors = await _export(file)
    assert (code, output) == (1, "")
    assert errors.startswith("server.tls.client_ca_file: ")


@integration
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("source", ["this", "shipped"])
async def test_envoy_accepts_it(file: Path, tmp_path: Path, source: str, tls: bool) -> None:
    if source == "shipped":
        file = shutil.copytree(ROOT, tmp_path / "shipped", ignore=_only_configuration) / "routes.yaml"
    if tls:
        pair = Authority(tmp_path).issue("server")
        keys = f"server:\n  tls: {{cert_file: {pair.cert}, key_file: {pair.key}}}"
        flow = f"{TRUSTS_ENVOY}, tls: {{cert_file: {pair.cert}, key_file: {pair.key}}}"
        file.write_text(file.read_text().replace("server:\n", f"{keys}\n").replace(TRUSTS_ENVOY, flow))
    code, output, errors = await _export(file)
    assert code == 0, errors
    (tmp_path / "envoy.yaml").write_text(output)
    assert len(json.loads(output)["static_resources"]["listeners"]) == (2 if tls else 1)
    code, _, errors = await _run(str(BIN / "envoy"), "--mode", "validate", "-c", str(tmp_path / "envoy.yaml"))
    assert code == 0, errors


def _only_configuration(folder: str, names: list[str]) -> list[str]:
    wanted = {"routes.yaml", "policies", "examples"}
    return [name for name in names if name not in wanted] if Path(folder) == ROOT else []


@pytest.fixture
async def envoy(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Starts Envoy on what is printed for a file; returns its port."""
    running: list[asyncio.subprocess.Process] = []

    async def start(file: Path) -> int:
        port, admin = free_port(), free_port()
        code, output, errors = await _export(file, "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}")
        assert code == 0, errors
        (tmp_path / "envoy.yaml").write_text(output)
        running.append(
            await asyncio.create_subprocess_exec(
                *(str(BIN / "envoy"), "-c", str(tmp_path / "envoy.yaml"), "--concurrency", "1"),
                *("--log-level", "error", "--disable-hot-restart"),
            )
        )

        async def listens() -> bool:
            code, output, _ = await _run("curl", "--silent", f"http://127.0.0.1:{admin}/ready")
            return code == 0 and output.strip() == "LIVE"

        await until(listens, "Envoy is live")
        return port

    yield start
    for process in running:
        process.terminate()
        await process.wait()


async def _curl(*arguments: str) -> tuple[str, str]:
    """HTTP version and status, and the body, by a client that is not ours."""
    written = ("--write-out", "\n%{http_version} %{http_code}", "--silent", "--max-time", "20")
    code, output, errors = await _run("curl", *written, *arguments)
    assert code == 0, errors
    body, _, line = output.rpartition("\n")
    return line, body


@integration
async def test_http_2_goes_through_envoy_to_the_gateway_and_its_upstream(
    start_gateway: Any, envoy: Any, iam: Any, backend: Backend
) -> None:
    gateway: GatewayProcess = await start_gateway(routes(iam, backend, server=TRUSTS_ENVOY, more=MORE))
    port = await envoy(gateway.file)
    url, prior = f"http://127.0.0.1:{port}", "--http2-prior-knowledge"
    line, body = await _curl(prior, "--header", "Authorization: Bearer allow", f"{url}/guarded/x%20y?a=1&a=2")
    assert line == "2 200"
    assert json.loads(body)["target"] == "/guarded/x%20y?a=1&a=2"
    line, body = await _curl(prior, "--header", "Authorization: Bearer deny", f"{url}/guarded/x")
    assert (line, json.loads(body)["code"]) == ("2 403", "iam_denied")
    line, body = await _curl("--http1.1", f"{url}/nowhere")
    assert (line, json.loads(body)["code"]) == ("1.1 404", "route_not_found")
    line, body = await _curl(prior, "--path-as-is", f"{url}/open/../guarded/x")
    assert (line, json.loads(body)["code"]) == ("2 400", "bad_request")
    await gateway.stop()
    line, body = await _curl(prior, f"{url}/open/x")
    assert (line, json.loads(body)["status"]) == ("2 503", 503)


@integration
async def test_tls_with_http_2_by_alpn_and_http_3(
    start_gateway: Any, envoy: Any, iam: Any, backend: Backend, tmp_path: Path
) -> None:
    """They share the certificate, and Envoy pins the gateway's key; HTTP/3 is on the same port."""
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    tls = f"{TRUSTS_ENVOY}, tls: {{cert_file: {pair.cert}, key_file: {pair.key}}}"
    gateway: GatewayProcess = await start_gateway(routes(iam, backend, server=tls))
    port = await envoy(gateway.file)
    line, body = await _curl("--cacert", str(authority.file), f"https://127.0.0.1:{port}/open/x")
    assert (line, json.loads(body)["target"]) == ("2 200", "/open/x")
    status, answer = await http3.get(port, "/open/y", authority.file)
    assert (status, json.loads(answer)["target"]) == (200, "/open/y")


@integration
async def test_a_unary_grpc_call_goes_to_an_upstream_that_speaks_http_1(
    start_gateway: Any, envoy: Any, iam: Any, backend: Backend
) -> None:
    """The upstream sees the message as a body. A refusal is an error of the call, which names the HTTP status."""
    gateway: GatewayProcess = await start_gateway(routes(iam, backend, server=TRUSTS_ENVOY))
    port = await envoy(gateway.file)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/guarded/shop.Orders/List")
        reply = await call(b"12345", metadata=(("authorization", "Bearer allow"),), timeout=20)
        assert json.loads(reply)["target"] == "/guarded/shop.Orders/List"
        with pytest.raises(grpc.aio.AioRpcError) as denied:
            await call(b"12345", metadata=(("authorization", "Bearer deny"),), timeout=20)
        assert "status code 403" in str(denied.value.details())
