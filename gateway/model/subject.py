"""Who asks. Made only in `identity`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(slots=True)
class Subject:
    """Who asks, as IAM and the upstream are told. Made for each request with an opaque token, so not frozen.

    `key` names the subject in caches, queues and coalescing; it never holds a token (opaque: the token's SHA-256).
    `document` is the subject as JSON text for IAM. `claims` fill `{claim.NAME}`.
    `expires_at_s`: Unix time at which the credentials end (a token's `exp` and the leeway), None if they do not say.
    `identified` is False for opaque tokens: nobody was authenticated here.
    """

    type: Final[str]
    id: Final[str] = field(repr=False)
    key: Final[str]
    document: Final[str] = field(repr=False)
    properties: Final[Mapping[str, Any]] = field(default_factory=dict, repr=False)
    claims: Final[Mapping[str, Any]] = field(default_factory=dict, repr=False)
    expires_at_s: Final[float | None] = None
    identified: Final[bool] = True
