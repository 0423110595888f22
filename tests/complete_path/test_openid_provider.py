"""A real OpenID provider (oidc-provider): discovery, rotation, client credentials, introspection, and its outage."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from joserfc.jwk import ECKey

from tests.complete_path.foreign import of_npm, on_path
from tests.complete_path.patience import PATIENCE_S, until_served
from tests.e2e.conftest import GatewayProcess, Seen, Server, free_port, permits

pytestmark = [pytest.mark.hazard, pytest.mark.integration]

START_S = 30.0
SCRIPT = Path(__file__).parent / "provider.mjs"
ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{{port}}", admin: "127.0.0.1:{{admin}}"}}
iam: {{url: "{iam}"{auth}}}
identity: {identity}
upstreams: {{app: {{url: "{upstream}"}}}}
routes:
  - {{id: app, path: /app/*, upstream: app, authorize: ["read thing:app"]}}
"""

Start = Callable[..., Awaitable[GatewayProcess]]


class Provider:
    """The provider on a port of its own, with one signing key at a time."""

    def __init__(self, node: str, package: str, folder: Path) -> None:
        self._node, self._package, self._file = node, str(Path(package).parent), folder / "private.jwks.json"
        self._signer_file = folder / "signer.jwks.json"
        self.signer = ECKey.generate_key("P-256", {"kid": "signer-1", "use": "sig", "alg": "ES256"})
        self._port = free_port()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Start with a new key."""
        key = ECKey.generate_key("P-256", {"kid": f"key-{time.monotonic_ns()}", "use": "sig", "alg": "ES256"})
        self._file.write_text(json.dumps({"keys": [key.as_dict(private=True)]}))
        self._signer_file.write_text(json.dumps({"keys": [self.signer.as_dict(private=False)]}))
        arguments = (str(SCRIPT), self._package, str(self._port), str(self._file), str(self._signer_file))
        pipe = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(self._node, *arguments, stdout=pipe, stderr=pipe)
        end = time.monotonic() + START_S
        async with httpx.AsyncClient(trust_env=False) as client:
            while time.monotonic() < end:
                try:
                    if (await client.get(f"{self.url}/.well-known/openid-configuration")).status_code == 200:
                        return
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
        raise AssertionError("the provider did not come up")

    async def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def token(self, resource: str = "urn:platform", scope: str = "orders") -> str:
        form = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
        answer = await self._post("/token", "robot", form)
        return str(answer.json()["access_token"])

    async def revoke(self, token: str) -> None:
        await self._post("/token/revocation", "robot", {"token": token})

    async def _post(self, path: str, client_id: str, form: dict[str, str]) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(self.url + path, data=form, auth=(client_id, f"secret-of-{client_id}"))
        assert answer.status_code == 200, answer.text
        return answer


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Provider]:
    made = Provider(on_path("node"), of_npm("oidc-provider", "package.json"), tmp_path)
    await made.start()
    yield made
    await made.stop()


async def _ask(gateway: GatewayProcess, token: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=PATIENCE_S) as client:
        return await client.get("/app/x", headers={"authorization": f"Bearer {token}"})


async def test_discovery_rotation_and_an_outage_of_the_provider(
    start_gateway: Start, provider: Provider, iam: Server, upstream: Server
) -> None:
    iam.answer = permits(lambda evaluation: evaluation["subject"] == {"type": "service", "id": "robot"})
    rules = (
        'subject: {type: service, id: "{claim.client_id}"}, required: {scope: [orders]}, headers: {X-Auth-Scope: scope}'
    )
    identity = f"{{jwt: {{issuer: '{provider.url}', audience: platform, {rules}}}}}"
    gateway = await start_gateway(ROUTES.format(iam=iam.url, upstream=upstream.url, identity=identity, auth=""))
    token = await provider.token()
    answer = await _ask(gateway, token)
    assert answer.status_code == 200, answer.text
    assert upstream.seen[-1].values("x-auth-scope") == ["orders"]
    assert upstream.seen[-1].values("x-auth-subject") == ["robot"]

    answer = await _ask(gateway, await provider.token(scope="read"))
    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
    assert 'error="insufficient_scope", scope="orders"' in answer.headers["www-authenticate"]

    await provider.stop()
    assert (await _ask(gateway, token)).status_code == 200, "keys that are known outlive the issuer's outage"
    await provider.start()
    assert (await _ask(gateway, await provider.token())).status_code == 200, "its new key is looked up"
    assert (await _ask(gateway, token)).status_code == 401, "and the key that is gone verifies nobody any more"


async def test_introspection_revocation_and_an_outage_of_the_provider(
    start_gateway: Start, provider: Provider, iam: Server, upstream: Server
) -> None:
    iam.answer = permits(lambda evaluation: evaluation["subject"]["id"] == "robot")
    auth = "auth: {basic: {username: gateway, password: secret-of-gateway}}"
    rules = 'subject: {id: "{claim.client_id}"}, claims: [scope], cache: 1s'
    identity = f"{{introspection: {{url: '{provider.url}/token/introspection', {auth}, {rules}}}}}"
    gateway = await start_gateway(ROUTES.format(iam=iam.url, upstream=upstream.url, identity=identity, auth=""))
    token = await provider.token("urn:opaque")
    answer = await _ask(gateway, token)
    assert answer.status_code == 200, answer.text
    subject = json.loads(iam.seen[-1].body)["evaluations"][0]["subject"]
    assert subject == {"type": "identity", "id": "robot", "properties": {"scope": "orders"}}
    assert (await _ask(gateway, "never-issued")).status_code == 401

    await provider.revoke(token)
    async with asyncio.timeout(PATIENCE_S):
        while (answer := await _ask(gateway, token)).status_code == 200:  # noqa: ASYNC110 - the cache's time is awaited
            await asyncio.sleep(0.1)
    assert answer.status_code == 401
    await provider.stop()
    answer = await _ask(gateway, token + "x")
    assert (answer.status_code, answer.json()["code"]) == (503, "identity_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    await provider.start()
    again = await provider.token("urn:opaque")

    async def attempt() -> int:
        return (await _ask(gateway, again)).status_code

    await until_served(attempt, meanwhile=503)


async def test_the_gateway_signs_for_its_own_token_and_sends_no_secret(
    start_gateway: Start, provider: Provider, iam: Server, upstream: Server, tmp_path: Path
) -> None:
    """`private_key_jwt`: the provider takes each assertion once, so two tokens need two."""
    (tmp_path / "signer.pem").write_bytes(provider.signer.as_pem(private=True))
    auth = (
        f", auth: {{oauth2_client_credentials: {{token_url: '{provider.url}/token', client_id: signer, "
        "client_auth: private_key_jwt, key_file: signer.pem, key_id: signer-1, resource: 'urn:platform', "
        "scope: orders}}"
    )
    sent: list[str] = []

    def guarded(seen: Seen) -> tuple[int, dict[str, str], bytes]:
        (field,) = seen.values("authorization")
        if field not in sent:
            sent.append(field)
        return (401, {}, b"") if len(sent) == 1 else permits(lambda _: True)(seen)

    iam.answer = guarded
    identity = f"{{jwt: {{issuer: '{provider.url}', audience: platform}}}}"
    gateway = await start_gateway(ROUTES.format(iam=iam.url, upstream=upstream.url, identity=identity, auth=auth))
    assert (await _ask(gateway, await provider.token())).status_code == 200
    assert len(sent) == 2, "the first was refused, and another was fetched"
    for field in sent:
        content = field.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)))
        assert (claims["client_id"], claims["aud"], claims["scope"]) == ("signer", "platform", "orders")
