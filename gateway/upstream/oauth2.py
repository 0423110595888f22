"""OAuth 2.0 client credentials (RFC 6749 section 4.4): one token, fetched once and shared by all requests.

Times are monotonic. Deliberately absent: refresh tokens, which this grant does not have.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from urllib.parse import quote_plus

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc import jwk, jws, jwt
from joserfc.jwa import JWSAlgModel

from gateway.errors import GatewayError
from gateway.model.request import Headers
from gateway.model.settings import ClientAuthentication, OAuth2ClientCredentials
from gateway.resilience.deadline import Deadline
from gateway.upstream.transport import cause_of

# How the gateway shows a token server which client it is: by HTTP Basic, in the form, or by a signed assertion.
#
# Rules: the secret goes in one place only. An assertion (RFC 7523 section 2.2) is made anew for every request, is for
# the token endpoint alone and lives for a minute; its algorithm follows from the key. The key's file is read once.

_ASSERTION_LIFETIME_S: Final = 60
_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_KEY_TYPES: Final[dict[str, Literal["RSA", "EC", "OKP"]]] = {"RS": "RSA", "ES": "EC", "Ed": "OKP"}
_MIN_RSA_BITS: Final = 2048


class ClientProof(Protocol):
    """What one request to the token endpoint carries."""

    def headers(self) -> dict[str, str]:
        """Header fields."""

    def form(self) -> dict[str, str]:
        """Members of the form."""


def build_client_proof(settings: OAuth2ClientCredentials) -> ClientProof:
    """As `client_auth` says. Raises OSError or ValueError for a key that cannot be used."""
    match settings.client_auth:
        case ClientAuthentication.BASIC:
            return _Basic(settings.client_id, settings.client_secret)
        case ClientAuthentication.POST:
            return _Post(settings.client_id, settings.client_secret)
        case ClientAuthentication.PRIVATE_KEY_JWT:
            if settings.key_file is None:
                raise ValueError("auth.oauth2_client_credentials: private_key_jwt needs a key_file")
            return _Assertion(settings, settings.key_file)


class _Basic:
    """RFC 6749 section 2.3.1: both parts form-encoded."""

    def __init__(self, client_id: str, secret: str) -> None:
        pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
        self._headers = {"authorization": "Basic " + base64.b64encode(pair.encode()).decode()}

    def headers(self) -> dict[str, str]:
        return self._headers

    def form(self) -> dict[str, str]:
        return {}


class _Post:
    """RFC 6749 section 2.3.1, for servers that cannot do Basic."""

    def __init__(self, client_id: str, secret: str) -> None:
        self._form = {"client_id": client_id, "client_secret": secret}

    def headers(self) -> dict[str, str]:
        return {}

    def form(self) -> dict[str, str]:
        return self._form


class _Algorithms(jws.JWSRegistry):
    """joserfc's, looked up without its warnings: servers know Ed25519 by its older name."""

    def get_alg(self, name: str) -> JWSAlgModel:
        return self.algorithms[name]


class _Assertion:
    """RFC 7523 section 2.2. `wall` is Unix time."""

    def __init__(
        self, settings: OAuth2ClientCredentials, key_file: Path, *, wall: Callable[[], float] = time.time
    ) -> None:
        pem = key_file.read_bytes()
        self._algorithm = algorithm_of(pem)
        self._key = jwk.import_key(pem, _KEY_TYPES[self._algorithm[:2]])
        self._header = {"alg": self._algorithm}
        if settings.key_id is not None:
            self._header["kid"] = settings.key_id
        self._claims = {"iss": settings.client_id, "sub": settings.client_id, "aud": settings.token_url}
        self._client_id = settings.client_id
        self._wall = wall

    def headers(self) -> dict[str, str]:
        return {}

    def form(self) -> dict[str, str]:
        now_s = int(self._wall())
        claims = {**self._claims, "iat": now_s, "exp": now_s + _ASSERTION_LIFETIME_S, "jti": secrets.token_urlsafe(16)}
        assertion = jwt.encode(self._header, claims, self._key, registry=_Algorithms())
        return {"client_id": self._client_id, "client_assertion_type": _ASSERTION_TYPE, "client_assertion": assertion}


def algorithm_of(pem: bytes) -> str:
    """The algorithm (RFC 7518, RFC 8037) that a private key signs with. Raises ValueError for one of no use."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        raise ValueError("it is no PEM private key without a passphrase") from None
    match key:
        case RSAPrivateKey(key_size=size) if size >= _MIN_RSA_BITS:
            return "RS256"
        case EllipticCurvePrivateKey(curve=curve) if curve.name in _CURVES:
            return _CURVES[curve.name]
        case Ed25519PrivateKey():
            return "EdDSA"
    raise ValueError("the key is not RSA of 2048 bits or more, EC (P-256, P-384, P-521) or Ed25519")


_log = logging.getLogger("gateway.upstream")

_TIMEOUT_S: Final = 5.0
_TIMEOUTS: Final = httpx.Timeout(0.9 * _TIMEOUT_S)  # ends first, so that the cause is told
_RENEW_AT: Final = 0.8
_LIFETIME_S: Final = 300.0
"""Assumed where the token server does not say `expires_in`."""
_MAX_LIFETIME_S: Final = 86_400.0
_KEEP_REFUSED_S: Final = 10.0
_BACKOFF_S: Final = 1.0
_BACKOFF_MAX_S: Final = 60.0
_MAX_DOUBLINGS: Final = 10
_MAX_ANSWER_BYTES: Final = 64 * 1024
_OK: Final = 200
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class _Token:
    """`headers` are what to send. `second` marks a token that was fetched because the one before was refused."""

    headers: Headers = field(repr=False)
    fetched_at_s: float
    renew_at_s: float
    expires_at_s: float
    second: bool


class _FetchFailed(Exception):
    """No token: `code` of the table, `proxy_error` of RFC 9209, and `reason`, which holds no secret."""

    def __init__(self, code: str, proxy_error: str | None, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.proxy_error = proxy_error
        self.reason = reason

    def refusal(self) -> GatewayError:
        """The refusal of one request. Nothing of it was sent to its upstream."""
        return GatewayError(
            self.code,
            "The credentials for the upstream could not be had.",
            sent=False,
            proxy_error=self.proxy_error,
            reason=f"token server: {self.reason}",
        )


class ClientCredentials:
    """The shared token of one upstream. `clock` is monotonic."""

    def __init__(
        self, settings: OAuth2ClientCredentials, *, http: httpx.AsyncClient, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._server = _TokenServer(settings, http)
        self._clock = clock
        self._token: _Token | None = None
        self._fetch: asyncio.Task[_Token | _FetchFailed] | None = None
        self._refused = False
        self._failed: _FetchFailed | None = None
        self._failures = 0
        self._next_fetch_s = 0.0

    async def headers(self, deadline: Deadline) -> Headers:
        """See Credentials. Raises `upstream_unreachable`, `upstream_timeout` or `upstream_protocol_error`."""
        token, now_s = self._token, self._clock()
        if token is None or now_s >= token.expires_at_s:
            return await self._fetched(deadline)
        # Renewed in the background by the first request that uses it late; an upstream nobody asks costs no token.
        if now_s >= token.renew_at_s and now_s >= self._next_fetch_s:
            self._fetching()
        return token.headers

    def rejected(self) -> None:
        """See Credentials."""
        token = self._token
        now_s = self._clock()
        # A second token that is refused too is kept for a while: a new one would not help.
        if token is None or (token.second and now_s - token.fetched_at_s < _KEEP_REFUSED_S):
            return
        self._refused = True
        if now_s >= self._next_fetch_s:
            self._fetching()

    async def renewed(self, deadline: Deadline) -> Headers:
        """See Credentials."""
        # Only the request that was refused waits: a 401 may be its own, so the others use the old token.
        return await (self._fetched(deadline) if self._refused else self.headers(deadline))

    async def aclose(self) -> None:
        """End a fetch that is under way."""
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.gather(self._fetch, return_exceptions=True)

    async def _fetched(self, deadline: Deadline) -> Headers:
        waiting = self._fetch is not None and not self._fetch.done()
        # After a failed fetch whoever needs a token fails at once, until the next one is due.
        if self._failed is not None and not waiting and self._clock() < self._next_fetch_s:
            raise self._failed.refusal()
        task = self._fetching()
        # `wait` leaves the task alone when this request is cancelled or its time is over.
        done, _ = await asyncio.wait({task}, timeout=deadline.remaining_s())
        if not done:
            raise _FetchFailed("upstream_timeout", None, "slower than the deadline").refusal()
        if task.cancelled():  # by `aclose`: who waited for it was not cancelled itself
            raise _FetchFailed("draining", None, "closed").refusal()
        outcome = task.result()
        if isinstance(outcome, _FetchFailed):
            raise outcome.refusal()
        return outcome.headers

    def _fetching(self) -> asyncio.Task[_Token | _FetchFailed]:
        # One fetch at a time; whoever needs its outcome waits for the same one.
        if self._fetch is None or self._fetch.done():
            self._fetch = asyncio.create_task(self._load())
        return self._fetch

    async def _load(self) -> _Token | _FetchFailed:
        second = self._refused
        try:
            value, lifetime_s = await self._server.ask()
        except _FetchFailed as error:
            return self._failure(error)
        now_s = self._clock()
        self._failed, self._failures, self._refused = None, 0, False
        self._token = _Token(
            headers=[(b"authorization", b"Bearer " + value.encode())],
            fetched_at_s=now_s,
            renew_at_s=now_s + lifetime_s * _RENEW_AT,
            expires_at_s=now_s + lifetime_s,
            second=second,
        )
        return self._token

    def _failure(self, error: _FetchFailed) -> _FetchFailed:
        self._failed = error
        self._next_fetch_s = self._clock() + min(_BACKOFF_MAX_S, _BACKOFF_S * 2**self._failures)
        self._failures = min(self._failures + 1, _MAX_DOUBLINGS)
        _log.warning("[auth] No token from %s: %s", self._server.name, error.reason)
        return error


class _TokenServer:
    """The token endpoint: one request, one strict answer."""

    def __init__(self, settings: OAuth2ClientCredentials, http: httpx.AsyncClient) -> None:
        self._url = httpx.URL(settings.token_url)
        self.name = f"{self._url.scheme}://{self._url.netloc.decode().rpartition('@')[2]}{self._url.path}"
        self._http = http
        self._form = {"grant_type": "client_credentials"}
        asked = {"scope": settings.scope, "audience": settings.audience, "resource": settings.resource}
        self._form |= {name: value for name, value in asked.items() if value is not None}
        self._proof = build_client_proof(settings)
        self._headers = {"accept": "application/json", "accept-encoding": "identity"}

    async def ask(self) -> tuple[str, float]:
        """A new token and its lifetime in seconds. Raises _FetchFailed."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                status, body = await self._post()
        except TimeoutError:
            raise _FetchFailed("upstream_timeout", None, f"no answer within {_TIMEOUT_S:g} s") from None
        except httpx.TimeoutException as error:
            raise _FetchFailed("upstream_timeout", None, cause_of(error)) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            raise _FetchFailed("upstream_unreachable", None, cause_of(error)) from None
        if status != _OK:
            raise _FetchFailed("upstream_unreachable", "destination_unavailable", f"answered {status}")
        return _parse(body)

    async def _post(self) -> tuple[int, bytes]:
        body = bytearray()
        async with self._http.stream(
            "POST",
            self._url,
            data=self._form | self._proof.form(),
            headers=self._headers | self._proof.headers(),
            timeout=_TIMEOUTS,
            # The secret goes to the token server and nowhere else.
            follow_redirects=False,
        ) as response:
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise _garbled("its answer has a content coding that was not asked for")
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MAX_ANSWER_BYTES:
                    raise _garbled("its answer is too large")
        return response.status_code, bytes(body)


def _garbled(reason: str) -> _FetchFailed:
    return _FetchFailed("upstream_protocol_error", None, reason)


def _parse(body: bytes) -> tuple[str, float]:
    """RFC 6749 section 5.1. Only bearer tokens can be used (RFC 6750)."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise _garbled("its answer is not JSON") from None
    token = answer.get("access_token") if isinstance(answer, dict) else None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise _garbled("its answer has no usable access_token")
    if str(answer.get("token_type", "bearer")).lower() != "bearer":
        raise _garbled("its token is not a bearer token")
    return token, _lifetime_s(answer.get("expires_in"))


def _lifetime_s(value: Any) -> float:
    """`expires_in` as a number, also one in a string, as some servers send it."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return _LIFETIME_S
    return min(max(1.0, seconds), _MAX_LIFETIME_S) if math.isfinite(seconds) else _LIFETIME_S
