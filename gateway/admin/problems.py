"""Errors of the admin listener: problem+json (RFC 9457), never stored. Nothing that was sent is repeated in them."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """One error as a response."""
    document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(
        document, status, {"cache-control": "no-store", **(headers or {})}, media_type="application/problem+json"
    )
