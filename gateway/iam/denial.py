"""What a denial says beside its no: stronger authentication that would help, and words for the caller.

Rules: `acr_values` (text, or a list of it) and `max_age` (seconds) become the parameters of a challenge (RFC 9470
section 3); `reason_user` is text, or text by language; `reason_admin` is never read. What is malformed, too long or
cannot stand in a header field is as if it were absent: a denial stays one.
"""

from __future__ import annotations

import re
from typing import Any, Final

from gateway.model.question import DENY, Decision, Outcome

_ACR: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")
_LONGEST: Final = 1000
_LANGUAGES: Final = 20
_LATEST: Final = 10**9


def denial(context: Any, *, reasons: bool) -> Decision:
    """The denial with this `context`. `reasons`: whether the caller may know why."""
    if not isinstance(context, dict):
        return DENY
    step_up, reason = _challenge(context), _by_language(context.get("reason_user")) if reasons else ()
    return Decision(Outcome.DENY, step_up=step_up, reason_user=reason) if step_up or reason else DENY


def _challenge(context: dict[str, Any]) -> str:
    asked = []
    acr = context.get("acr_values")
    if isinstance(acr, list) and all(isinstance(value, str) for value in acr):
        acr = " ".join(acr)
    if isinstance(acr, str) and len(acr) <= _LONGEST and _ACR.fullmatch(acr):
        asked.append(f'acr_values="{acr}"')
    age = context.get("max_age")
    if isinstance(age, int) and not isinstance(age, bool) and 0 <= age <= _LATEST:
        asked.append(f'max_age="{age}"')
    return ", ".join(asked)


def _by_language(reason: Any) -> tuple[tuple[str, str], ...]:
    texts = reason if isinstance(reason, dict) else {"": reason}
    return tuple(
        (language.lower(), text)
        for language, text in list(texts.items())[:_LANGUAGES]
        if isinstance(text, str) and text.isprintable() and 0 < len(text) <= _LONGEST
    )
