"""Whole files built from parts, with a marker where a mistake is expected."""

from __future__ import annotations

from collections.abc import Mapping

MARK = "‸"
PARTS: Mapping[str, str] = {
    "version": "version: 1",
    "server": "server: {}",
    "iam": "iam: {url: http://127.0.0.1:8181}",
    "identity": "identity: {opaque: {}}",
    "upstreams": "upstreams: {a: {url: http://127.0.0.1:9001}}",
    "routes": 'routes:\n  - {id: r, path: /r/*, upstream: a, authorize: ["read system:r"]}',
}
JWT = "identity: {jwt: {issuer: https://idp.example, audience: x, jwks_url: https://idp.example/jwks}}"


def whole(**parts: str) -> str:
    """A file with these parts in place of the usual ones; an empty part is left out."""
    return "\n".join(part for part in {**PARTS, **parts}.values() if part) + "\n"


def route(keys: str, *, identity: str = PARTS["identity"], **parts: str) -> str:
    """A file whose one route has these lines of keys; id, path, upstream and authorize are added where they miss."""
    usual = {"id": "r", "path": "/r/*", "upstream": "a", "authorize": '["read system:r"]'}
    if any(f"{kind}:" in keys for kind in ("aggregate", "navigation", "permissions", "\nhealth")):
        del usual["upstream"]
    starts = [line.replace(MARK, "").partition(":")[0] for line in keys.splitlines()]
    lines = [f"{key}: {value}" for key, value in usual.items() if key not in starts] + keys.splitlines()
    return whole(identity=identity, routes="routes:\n  - " + "\n    ".join(lines), **parts)


def place(text: str) -> tuple[str, int, int]:
    """The text without its marker, and the marker's line and column."""
    before, _, after = text.partition(MARK)
    return before + after, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
