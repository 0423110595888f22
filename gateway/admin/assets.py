"""The status page: static files of the package, the same for everybody, and the headers that fence them in.

Rules: nothing is filled in, so there is nothing to inject into; no script and no style but our own files, no foreign
host, no frame around it (CSP Level 3). Without a token the page is shown all the same, as 401: it asks for one.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from starlette.responses import Response

_FOLDER: Final = files("gateway.admin") / "page"
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
}
HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
PAGE: Final = "page.html"
PUBLIC_FILES: Final = (
    "page.css",
    "page.js",
    "dom.js",
    "iam.js",
    "problems.js",
    "routes.js",
    "stream.js",
    "tables.js",
    "words.js",
)


def asset(name: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """One of the files."""
    content = (_FOLDER / name).read_bytes()
    return Response(content, status, {**HEADERS, **(headers or {})}, _TYPES[name.rpartition(".")[2]])
