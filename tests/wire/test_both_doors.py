"""One reading for both front doors: what the public listener refuses, the decision listener never permits.

Each case of the areas that are about targets and fields is sent to the public listener as it is, and to the decision
listener as every proxy would ask about it. The verdicts must be the same: permitted, or refused with the same status.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.conftest import GatewayProcess, Server, echo, free_port, permits
from tests.wire.client import converse, expand

AREAS = ("path-", "target-form", "header-spoof")
CASES = [
    case
    for case in json.loads((Path(__file__).parent / "cases.json").read_text())
    if case["area"].startswith(AREAS) and len(case["send"]) == 1
]
DOORS = {
    "envoy": (),
    "nginx": ("x-original-method", "x-original-uri"),
    "traefik": ("x-forwarded-method", "x-forwarded-uri"),
    "caddy": ("x-forwarded-method", "x-forwarded-uri"),
}
WRITTEN_BY_THE_PROXY = {"x-forwarded-host", "x-forwarded-for", "x-forwarded-proto", "x-original-method"}
OTHER_STATUS = {
    "T08": "`OPTIONS *` asks the listener itself, which answers 204; a 2xx would let it through, so here it is 400",
    "T11": "CONNECT to an origin-form target is malformed at the listener; named by a proxy it is a method like others",
    "T20": "the listener makes origin form of absolute form, as a proxy does before it asks",
}
"""Refused both times, by another status."""
ROUTES = """
version: 1
server:
  listen: "127.0.0.1:{port}"
  admin: "127.0.0.1:{admin}"
  trusted_proxies: [127.0.0.1]
  decisions: {{listen: "127.0.0.1:{decisions}"}}
iam: {{url: "{iam}"}}
identity: {{opaque: {{}}}}
upstreams: {{echo: {{url: "{echo}"}}}}
routes:
  - {{id: inventory, path: /inventory/*, upstream: echo, authorize: ["access system:inventory"]}}
  - {{id: monitoring, path: /monitoring/*, upstream: echo, authorize: ["access system:monitoring"]}}
  - {{id: open, path: /open/*, upstream: echo, authorize: public}}
"""

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]


def question(raw: str, door: str) -> str | None:
    """The case as that proxy asks about it: the request line named, the proxy's own fields written anew."""
    head, _, _ = raw.partition("\r\n\r\n")
    first, *fields = head.split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3:
        return None
    method, target, version = parts
    own = DOORS[door]
    written = {*own, *WRITTEN_BY_THE_PROXY} if own else {"x-forwarded-for", "x-forwarded-proto"}
    kept = [field for field in fields if field.partition(":")[0].strip().lower() not in written]
    named = [f"{name}: {value}" for name, value in zip(own, (method, target), strict=False)]
    line = f"GET /{door} {version}" if own else f"{method} /envoy{target} {version}"
    return "\r\n".join([line, *kept, *named, "Connection: close", "", ""])


async def verdict(raw: str, port: int) -> str:
    case = {"send": [{"after_ms": 0, "bytes": [raw]}], "expect": {}}
    talk = await converse(case, port)
    if not talk.finals:
        return "refused"
    status = talk.finals[0].status
    return "permitted" if status == 200 else str(status)


def _may(evaluation: dict[str, Any]) -> bool:
    subject, resource = evaluation["subject"]["id"], evaluation["resource"]["id"]
    return bool(subject == "allow" or (subject == "inv" and resource == "inventory"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def verdicts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, dict[str, str]]]:
    """By case and door ("public" is one); all asked at the same time."""
    iam, upstream = Server(permits(_may)), Server(echo)
    await iam.start()
    await upstream.start()
    ports = {"port": free_port(), "admin": free_port(), "decisions": free_port()}
    file = tmp_path_factory.mktemp("doors") / "routes.yaml"
    file.write_text(ROUTES.format(**ports, iam=iam.url, echo=upstream.url))
    gateway = GatewayProcess(file, ports["port"], ports["admin"])
    await gateway.start()
    at_once = asyncio.Semaphore(24)

    async def asked(case: dict[str, Any]) -> dict[str, str]:
        raw = expand(case["send"][0]["bytes"]).decode("latin-1")
        questions = {door: question(raw, door) for door in DOORS}
        async with at_once:
            found = {"public": await verdict(raw, ports["port"])}
            for door, text in questions.items():
                if text is not None:
                    found[door] = await verdict(text, ports["decisions"])
        return found

    try:
        answers = await asyncio.gather(*map(asked, CASES))
        yield {case["id"]: answer for case, answer in zip(CASES, answers, strict=True)}
    finally:
        assert await gateway.stop() == 0
        await upstream.stop()
        await iam.stop()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['id']}-{case['area']}")
async def test_both_doors_say_the_same(verdicts: dict[str, dict[str, str]], case: dict[str, Any]) -> None:
    said = dict(verdicts[case["id"]])
    public = said.pop("public")
    for door, verdict_there in said.items():
        assert (verdict_there == "permitted") == (public == "permitted"), f"{door}: {verdict_there}, public: {public}"
    same = set(said.values()) <= {public}
    assert same != (case["id"] in OTHER_STATUS), f"{said}, public: {public}"


async def test_all_areas_are_replayed(verdicts: dict[str, dict[str, str]]) -> None:
    assert len(CASES) >= 70
    assert sum(len(said) for said in verdicts.values()) >= 4.5 * len(CASES)
    assert {"permitted", "400", "401", "403", "404"} <= {said["public"] for said in verdicts.values()}
