"""IAM's words for a denied caller, in the language that the caller prefers (`iam.deny_reasons`).

Rules: `Accept-Language` (RFC 9110 section 12.5.4) is read in its order, weights aside; a language fits one that it is
the beginning of (`en` and `en-403`, `de` and `de-CH`); else English, else what is there first.
"""

from __future__ import annotations

from typing import Final

from gateway.model.question import Decision
from gateway.model.request import Request

_MOST: Final = 10


def said_to(request: Request, decision: Decision) -> str:
    """The reason of a denial for the caller of `request`; empty if IAM gave none."""
    reasons = decision.reason_user
    for wanted in (*_languages(request), "en", ""):
        for language, text in reasons:
            if language == wanted or language.startswith(wanted + "-"):
                return text
    return reasons[0][1] if reasons else ""


def _languages(request: Request) -> list[str]:
    fields = b",".join(request.values(b"accept-language")).decode("latin-1").lower()
    tags = [part.partition(";")[0].strip() for part in fields.split(",", _MOST)[:_MOST]]
    return [shorter for tag in tags if tag and tag != "*" for shorter in (tag, tag.partition("-")[0])]
