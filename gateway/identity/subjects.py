"""Builds Subjects, and the two kinds of identity that verify nothing here: `opaque` and `header`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.identity.credentials import Challenge, Tokens, well_formed
from gateway.model.request import Header, Request, Subject

_LONGEST_PLAIN_KEY: Final = 256


def usable_name(text: str) -> bool:
    """Whether `text` can name somebody: not empty, no control, format or unassigned characters, no lone surrogates.

    A name goes into logs and into `X-Auth-Subject`; one that cannot be shown as it is would be read as another there.
    """
    return bool(text) and text.isprintable()


def identity(name: str) -> Subject:
    """The Subject `{"type":"identity","id":name}`. Raises ValueError for what has no UTF-8 form."""
    return subject_of("identity", name)


def subject_of(
    type_: str,
    name: str,
    *,
    source: str = "",
    properties: Mapping[str, Any] | None = None,
    claims: Mapping[str, Any] | None = None,
    expires_at_s: float | None = None,
    headers: tuple[Header, ...] = (),
) -> Subject:
    """The Subject of that type and id, with `properties` if there are any. `source` goes into its key.

    Raises ValueError for what has no UTF-8 form.
    """
    parts = ['{"type":', _canonical(type_), ',"id":', _canonical(name)]
    if properties:
        parts += [',"properties":', _canonical(properties)]
    document = "".join(parts) + "}"
    return Subject(
        type=type_,
        id=name,
        key=_key(source + document),
        document=document,
        properties=properties or {},
        claims=claims or {},
        expires_at_s=expires_at_s,
        headers=headers,
    )


def _canonical(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)
    text.encode()
    return text


def _key(text: str) -> str:
    if len(text) <= _LONGEST_PLAIN_KEY:
        return "identity:" + text
    return "identity:sha256:" + sha256(text.encode()).hexdigest()


# `opaque`: the bearer token itself is the subject, and IAM resolves it. Nobody is authenticated here.
#
# Rule: the token is checked for its alphabet, so that no client can make our call to IAM fail; keys hold its SHA-256.

_NOTHING: Final[Mapping[str, Any]] = {}


class OpaqueIdentifier:
    """Bearer token → Subject of type `token`."""

    def __init__(self, *, tokens: Tokens, challenge: Challenge) -> None:
        self._tokens = tokens
        self._challenge = challenge

    async def identify(self, request: Request) -> Subject:
        """See Identifier."""
        raw = self._tokens.of(request)
        if not well_formed(raw):
            raise self._challenge.invalid("The token is malformed.")
        return token_subject(raw.decode("ascii"))

    def late(self) -> GatewayError:
        """See Identifier. Nothing is waited for."""
        return GatewayError("identity_unavailable")

    async def aclose(self) -> None:
        """Nothing runs."""


def token_subject(token: str) -> Subject:
    """The Subject that a well-formed token is."""
    key = "token:" + sha256(token.encode("ascii")).hexdigest()
    document = '{"type":"token","id":"' + token + '"}'  # b64token has no character that JSON escapes
    # By position, and with what is empty shared: this is made for every request. The last one: not identified.
    return Subject("token", token, key, document, _NOTHING, _NOTHING, None, False)


# `header`: a trusted proxy names the subject. From anybody else the header is worth nothing.


class HeaderIdentifier:
    """The value of one header field of a trusted peer → Subject of type `identity`."""

    def __init__(self, name: bytes, *, challenge: Challenge, max_value: int) -> None:
        self._name = name
        self._shown = name.decode("latin-1")
        self._challenge = challenge
        self._max_value = max_value

    async def identify(self, request: Request) -> Subject:
        """See Identifier. A repeated field is refused: which of the two the proxy meant cannot be known."""
        if not request.trusted:
            raise self._challenge.untrusted(f"the {self._shown} header is believed only from server.trusted_proxies")
        values = request.values(self._name)
        if len(values) != 1:
            raise self._challenge.untrusted(f"the request has {len(values)} {self._shown} headers, not one")
        if len(values[0]) > self._max_value:
            raise GatewayError("headers_too_large", f"The identity is longer than {self._max_value} bytes.")
        return identity(self._checked(values[0]))

    def late(self) -> GatewayError:
        """See Identifier. Nothing is waited for."""
        return GatewayError("identity_unavailable")

    async def aclose(self) -> None:
        """Nothing runs."""

    def _checked(self, value: bytes) -> str:
        try:
            name = value.decode()
        except UnicodeDecodeError:
            raise self._challenge.untrusted(f"the {self._shown} header is not UTF-8 text") from None
        if not usable_name(name):
            raise self._challenge.untrusted(f"the {self._shown} header is empty or not printable")
        return name
