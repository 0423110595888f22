"""No token, wherever it came from, is in any log line, span, metric, document, error or page.

Everything that a gateway can be asked is asked, by everybody, while IAM and the upstreams answer, fail, hang and talk
nonsense; then all that it ever said is searched for every secret that was used.
"""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from typer.testing import CliRunner
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.cli import app
from tests.admin.conftest import OPERATOR, ActiveConfig, running
from tests.complete_path.issuer import Issuer
from tests.complete_path.patience import until
from tests.e2e.conftest import Seen, Server, free_port
from tests.telemetry.conftest import Receiver, receiver

__all__ = ["receiver"]

pytestmark = [pytest.mark.hazard, pytest.mark.integration]

SECRETS = {
    "query": "s3cret-in-a-query",
    "cookie": "s3cret-in-a-cookie",
    "basic": "s3cret-in-basic-auth",
    "body": "s3cret-in-a-body",
    "header": "s3cret-in-a-header",
    "fragment": "s3cret-in-a-bad-target",
    "IAM_TOKEN": "s3cret-for-iam",
    "DECISIONS_KEY": "s3cret-for-hashes",
    "PERMITS_KEY": "s3cret-for-permits",
    "SHADOW_TOKEN": "s3cret-for-a-second-iam",
    "ADMIN_TOKEN": "s3cret-for-operators",
    "UPSTREAM_TOKEN": "s3cret-for-upstream",
    "UPSTREAM_PASSWORD": "s3cret-for-basic-upstream",
    "CLIENT_SECRET": "s3cret-for-oauth",
    "granted": "s3cret-granted-by-oauth",
}
DOCUMENTS = ("/status", "/routes", "/breakers", "/config", "/health/systems", "/metrics", "/")
MODES = ("ok", "errors", "nonsense", "refusing", "hang", "ok")
ROUTES = """
version: 1
server:
  {listen: "127.0.0.1:{port}", admin: "127.0.0.1:{admin}", drain_timeout: 4s, admin_token: "${ADMIN_TOKEN}",
   trusted_proxies: [127.0.0.1], decisions: {listen: "127.0.0.1:DECISIONS"},
   decision_log: {path: decisions.jsonl, values: hash, key: "${DECISIONS_KEY}"}}
iam_shadow: {url: "IAM", token: "${SHADOW_TOKEN}", circuit_breaker: {failure_threshold: 1000}}
iam:
  url: "IAM"
  token: "${IAM_TOKEN}"
  timeout: {connect: 1s, read: 200ms, total: 300ms}
  circuit_breaker: {failure_threshold: 4, open_for: 1s}
  cache: {snapshot: {path: permits, every: 200ms, key: "${PERMITS_KEY}"}}
identity: IDENTITY
upstreams:
  plain: {url: "UPSTREAM"}
  bearer: {url: "UPSTREAM", auth: {bearer: "${UPSTREAM_TOKEN}"}}
  basic: {url: "UPSTREAM", auth: {basic: {username: gateway, password: "${UPSTREAM_PASSWORD}"}}}
  oauth:
    url: "UPSTREAM"
    auth:
      oauth2_client_credentials: {token_url: "UPSTREAM/token", client_id: gateway, client_secret: "${CLIENT_SECRET}"}
  dead: {url: "http://127.0.0.1:9"}
routes:
  - {id: plain, path: /plain/*, upstream: plain, authorize: ["read system:plain", "as tenant:{header.x-tenant}"]}
  - {id: bearer, path: /bearer/*, upstream: bearer, authorize: ["read system:bearer"], retry: {attempts: 2}}
  - {id: basic, path: /basic/*, upstream: basic, authorize: ["read q:{query.q}"], on_iam_failure: {degrade: stale}}
  - {id: oauth, path: /oauth/*, upstream: oauth, authorize: ["read system:oauth"]}
  - {id: dead, path: /dead/*, upstream: dead, authorize: ["read system:dead"]}
  - {id: public, path: /public/*, upstream: plain, authorize: public, methods: [GET]}
  - {id: permissions, path: /permissions, methods: [POST], authorize: ["ask system:iam"], permissions: {max_items: 5}}
  - id: audit
    path: /audit/{email}
    methods: [GET]
    authorize: ["audit user:{path.email}"]
    aggregate:
      require: 1
      systems:
        One: {upstream: oauth, path: "/one/{path.email}"}
        Two: {upstream: bearer, path: "/two/{path.email}"}
        Three: {upstream: dead, path: "/three/{path.email}"}
"""


def answering(mode: dict[str, str], refused: str) -> Any:
    """An IAM that denies `mallory` and the token `refused`; in other modes it repeats what it was sent."""

    def answer(seen: Seen) -> tuple[int, dict[str, str], bytes]:
        if mode["iam"] == "nonsense":
            return 200, {}, b'{"evaluations": "' + seen.body.replace(b'"', b"") + b'"}'
        if mode["iam"] == "refusing":
            return 401, {"WWW-Authenticate": "Bearer " + " ".join(seen.values("authorization"))}, seen.body
        count = seen.body.count(b'"action"')
        granted = b"false" if b'"mallory"' in seen.body or refused.encode() in seen.body else b"true"
        return 200, {}, b'{"evaluations": [' + b", ".join([b'{"decision": ' + granted + b"}"] * count) + b"]}"

    return answer


def upstream_answer(seen: Seen) -> tuple[int, dict[str, str], bytes]:
    """Grants a token to who asks for one; else repeats every credential that it was shown."""
    if seen.target == "/token":
        return 200, {}, b'{"access_token": "' + SECRETS["granted"].encode() + b'", "expires_in": 600}'
    shown = " ".join(seen.values("authorization"))
    return (503 if "fail" in seen.target else 200), {"X-Echo": shown}, shown.encode()


def tokens(issuer: Issuer) -> dict[str, str]:
    return {who: issuer.token(who) for who in ("alice", "mallory")} | {
        "expired": issuer.token("alice", lifetime_s=-100),
        "foreign": Issuer().token("alice"),
        "broken": "eyJhbGciOiJub25lIn0.s3cret-and-unsigned.",
        "long": "s3cret-and-long-" + "x" * 9000,
    }


async def ask_everything(site: ActiveConfig, bearers: dict[str, str], mode: dict[str, str]) -> None:
    query = f"?q=1&access_token={quote(SECRETS['query'])}"
    paths = [f"/basic/7?q={SECRETS['query']}"]
    paths += [f"/{route}/7{query}" for route in ("plain", "bearer", "basic", "oauth", "dead", "public", "nowhere")]
    paths += ["/audit/a@b" + query, "/bearer/fail" + query, "/basic/7" + query + "&q=2"]
    async with httpx.AsyncClient(base_url=site.process.url, trust_env=False, timeout=20) as client:
        for name in MODES:
            mode["iam"] = site.iam.mode = name
            operator = {"authorization": f"Bearer {SECRETS['ADMIN_TOKEN']}", **OPERATOR}
            for change in ("close", "auto"):
                await site.operator.post(f"/breakers/iam/{change}", headers=operator)
            for bearer in bearers.values():
                headers = {
                    "authorization": f"Bearer {bearer}",
                    "cookie": f"session={SECRETS['cookie']}",
                    "x-api-key": SECRETS["header"],
                    "x-tenant": "north",
                }
                asked = [client.get(path, headers=headers) for path in paths]
                evaluations = {"evaluations": [{"action": {"name": "x"}, "resource": {"type": "a", "id": "b"}}]}
                asked.append(client.post("/permissions", headers=headers, json=evaluations))
                asked.append(client.post("/plain/7", headers=headers, content=SECRETS["body"].encode() * 100))
                await asyncio.gather(*asked)
        basic = base64.b64encode(f"alice:{SECRETS['basic']}".encode()).decode()
        for value in (f"Basic {basic}", SECRETS["basic"], f"Bearer {SECRETS['basic']} extra"):
            await client.get("/plain/7", headers={"authorization": value, "x-tenant": "north"})
    await ask_badly(site)


async def ask_for_decisions(port: int, bearers: dict[str, str]) -> list[str]:
    """As each of the proxies asks, for everybody."""
    said = []
    target = f"/plain/7?q=1&access_token={quote(SECRETS['query'])}"
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as proxy:
        for bearer in bearers.values():
            headers = {
                "authorization": f"Bearer {bearer}",
                "cookie": f"session={SECRETS['cookie']}",
                "x-tenant": "north",
                "x-original-method": "GET",
                "x-original-uri": target,
                "x-forwarded-method": "GET",
                "x-forwarded-uri": target,
            }
            replies = [
                await proxy.get(path, headers=headers) for path in (f"/envoy{target}", "/nginx", "/traefik", "/x")
            ]
            said += [str(reply.headers) + reply.text for reply in replies]
    return said


def what_commands_say(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of the same file and of the same log: exports, differences, a report, and the log asked again."""
    for name, value in SECRETS.items():
        if name.isupper():
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    text = (folder / "routes.yaml").read_text()
    (folder / "other.yaml").write_text(
        text.replace("${SHADOW_TOKEN}", "s3cret-and-another").replace("[GET]", "[GET, PUT]")
    )
    (folder / "any").mkdir()
    (folder / "any" / "a.cedar").write_text("permit (principal, action, resource);")
    commands = [["export", name, "-c", "routes.yaml"] for name in ("nginx", "traefik", "caddy", "envoy")]
    commands[-1] += ["--decide"]
    commands += [["diff", "routes.yaml", "other.yaml"], ["report", "decisions.jsonl"]]
    commands += [["replay", "decisions.jsonl", "--against", "any", "--output", output] for output in ("text", "json")]
    results = [CliRunner().invoke(app, command) for command in commands]
    assert all(result.output for result in results), [result.exception for result in results]
    return [result.output for result in results]


async def ask_badly(site: ActiveConfig) -> None:
    """What is no HTTP, what is ambiguous, and a WebSocket that is refused."""
    for line in (
        f"GET /..;?{SECRETS['fragment']} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRETS['header']}\r\n\r\n",
        f"GET http://user:{SECRETS['fragment']}@evil/ HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET http://user:{SECRETS['fragment']}@x/plain/7 HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /plain/7#{SECRETS['fragment']} HTTP/1.1\r\nHost: x\r\n\r\n",
        f"{SECRETS['fragment']}\r\n\r\n",
        f"GET /plain/7 HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer {SECRETS['header']}\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.process.port)
        writer.write(line.encode())
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 15)
        writer.close()
    headers = {"Authorization": f"Bearer {SECRETS['header']}"}
    with pytest.raises(InvalidStatus):
        await connect(
            f"ws://127.0.0.1:{site.process.port}/plain/7?token={SECRETS['query']}",
            additional_headers=headers,
            proxy=None,
        )


async def ask_the_operators_side(site: ActiveConfig) -> list[str]:
    """Everything on the admin listener, also what it refuses; without the token it says less."""
    said = []
    token = {"authorization": f"Bearer {SECRETS['ADMIN_TOKEN']}"}
    for headers in ({}, {"authorization": "Bearer s3cret-and-wrong", "accept": "text/html"}, token):
        replies = [await site.operator.get(path, headers=headers) for path in DOCUMENTS]
        replies.append(await site.operator.post("/-/reload", headers={**headers, **OPERATOR}))
        replies.append(await site.operator.post("/breakers/s3cret/open", headers={**headers, **OPERATOR}))
        said += [str(reply.headers) + reply.text for reply in replies]
    open_metrics = await site.operator.get("/metrics", headers={**token, "accept": "application/openmetrics-text"})
    return [*said, open_metrics.text]


@pytest.mark.parametrize("identity", ["jwt", "opaque", "elsewhere"])
async def test_no_secret_is_anywhere(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, identity: str
) -> None:
    issuer, mode, decisions = Issuer(), {"iam": "ok"}, free_port()
    bearers = tokens(issuer)
    settings = "{opaque: {}}" if identity == "opaque" else issuer.settings(tmp_path)
    if identity == "elsewhere":
        places = "[header, {cookie: session}, {query: access_token}, websocket_protocol]"
        settings = settings.removesuffix("}") + f", token: {places}}}"

    def write(iam: Server, upstream: Server) -> str:
        iam.answer, upstream.answer = answering(mode, bearers["mallory"]), upstream_answer
        text = (
            ROUTES.replace("IDENTITY", settings).replace('DECISIONS"', f'{decisions}"').replace('"IAM"', f'"{iam.url}"')
        )
        return text.replace("UPSTREAM/", f"{upstream.url}/").replace('"UPSTREAM"', f'"{upstream.url}"')

    environ = {name: value for name, value in SECRETS.items() if name.isupper()} | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }
    async with running(tmp_path, 1, write, **environ) as site:
        await ask_everything(site, bearers, mode)
        said = await ask_the_operators_side(site)
        said += await ask_for_decisions(decisions, bearers)
        reached = len(site.upstream.seen), len(site.iam.seen)
    await until(lambda: len(receiver.spans) > 100 and "http.server.request.duration" in receiver.metrics)
    told = [site.process.output.decode(), site.process.errors.decode(), *said]
    written = {name: (tmp_path / name).read_bytes().decode("latin-1") for name in ("decisions.jsonl", "permits")}
    assert written["decisions.jsonl"].count('"outcome":"deny"') > 2, "decisions were logged"
    assert len(written["permits"]) > 300, "permits were kept"
    told += [*written.values(), *await asyncio.to_thread(what_commands_say, tmp_path, monkeypatch)]
    told += [str(message) for message in [*receiver.spans, *receiver.resources, *receiver.metrics.values()]]
    assert min(reached) > 20, "what was to be asked was asked"
    assert {"iam_denied", "iam_invalid_response", "iam_auth_error", "unauthenticated"} <= set(codes(told[0]))
    everything = "\n".join(told)
    assert "s3cret" not in everything, around(everything, "s3cret")
    for bearer in bearers.values():
        for part in (bearer, *bearer.split(".")):
            assert len(part) < 12 or part not in everything, around(everything, part)


def codes(log: str) -> list[str]:
    return [part.split('"')[0] for part in log.split('"code":"')[1:]]


def around(text: str, found: str) -> str:
    """Where it stands."""
    at = text.find(found)
    return text[max(0, at - 300) : at + 100]
