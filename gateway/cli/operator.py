"""Asking the admin listener of a running gateway: what `gateway reload` and `gateway status` share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.cli.output import EXIT_CANNOT, fail

AdminUrl = Annotated[str, typer.Option(metavar="URL", help="The admin listener.")]
DEFAULT_ADMIN = "http://127.0.0.1:9901"
AdminToken = Annotated[str, typer.Option(envvar="GATEWAY_ADMIN_TOKEN", help="The admin token, if one is set.")]
PATIENCE_S = 60.0
_TOKEN_WANTED = frozenset({401, 403})
_REFUSED = 422


def ask(method: str, admin: str, path: str, token: str) -> dict[str, Any]:
    """The JSON document that it answers, also of a refused change.

    Exit 3 where it cannot be reached, 1 where it answers anything else.
    """
    import httpx  # heavy

    headers = {"x-gateway-admin": "1"} | ({"authorization": f"Bearer {token}"} if token else {})
    try:
        with httpx.Client(trust_env=False, timeout=PATIENCE_S) as client:
            reply = client.request(method, admin.rstrip("/") + path, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        fail(f"cannot ask {admin}: {str(error) or type(error).__name__}", EXIT_CANNOT)
    if not reply.is_success and reply.status_code != _REFUSED:
        hint = "; the admin token is needed: --token or GATEWAY_ADMIN_TOKEN"
        fail(f"{admin} answers {reply.status_code}{hint if reply.status_code in _TOKEN_WANTED else ''}")
    try:
        document = reply.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        fail(f"cannot ask {admin}: what it answers is no JSON object; is this the admin listener?", EXIT_CANNOT)
    return document
