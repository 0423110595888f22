"""Who asks. Made only in `identity`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final

from gateway.model.request import Header

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(init=False, slots=True)
class Subject:
    """Who asks, as IAM and the upstream are told. Made for each request with an opaque token, so not frozen.

    `key` names the subject in caches, queues and coalescing; it never holds a token (opaque: the token's SHA-256).
    `document` is the subject as JSON text for IAM. `claims` fill `{claim.NAME}`.
    `expires_at_s`: Unix time at which the credentials end (a token's `exp` and the leeway), None if they do not say.
    `headers` are the claims that the upstream is told by header, ready to be sent.
    `identified` is False for opaque tokens: nobody was authenticated here.
    """

    type: Final[str]
    id: Final[str]
    key: Final[str]
    document: Final[str]
    properties: Final[Mapping[str, Any]]
    claims: Final[Mapping[str, Any]]
    expires_at_s: Final[float | None]
    identified: Final[bool]
    headers: Final[tuple[Header, ...]]

    def __init__(
        self,
        type: str,  # noqa: A002 - as IAM's API calls it
        id: str,  # noqa: A002
        key: str,
        document: str,
        properties: Mapping[str, Any] = _NOTHING,
        claims: Mapping[str, Any] = _NOTHING,
        expires_at_s: float | None = None,
        identified: bool = True,  # said by name, except where one is made for each request
        headers: tuple[Header, ...] = (),
    ) -> None:
        self.type = type
        self.id = id
        self.key = key
        self.document = document
        self.properties = properties
        self.claims = claims
        self.expires_at_s = expires_at_s
        self.identified = identified
        self.headers = headers

    def __repr__(self) -> str:
        """What may stand in a log: an id or a claim may be a secret."""
        return f"Subject(type={self.type!r}, key={self.key!r}, identified={self.identified!r})"


def claim_of(claims: Mapping[str, Any], name: str, missing: Any = None) -> Any:
    """The claim of exactly that name, else what the dotted path leads to; `missing` where there is neither."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for step in name.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return missing
        value = value[step]
    return value


def name_of(subject_id: str) -> str:
    """What a subject is called in stores: the SHA-256 of its id in hex. An opaque token is never kept itself."""
    return sha256(subject_id.encode("utf-8", "surrogatepass")).hexdigest()
