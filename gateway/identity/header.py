"""`header`: a trusted proxy names the subject. From anybody else the header is worth nothing."""

from __future__ import annotations

from gateway.errors import GatewayError
from gateway.identity.bearer import Challenge
from gateway.identity.subjects import identity, usable_name
from gateway.model.request import Request
from gateway.model.subject import Subject


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
