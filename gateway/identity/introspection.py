"""`introspection`: opaque tokens that an authorization server is asked about (RFC 7662)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final

import httpx

from gateway.errors import GatewayError
from gateway.identity import strict_json
from gateway.identity.claims import OTHER_KIND, ClaimReader, TokenRefused, date_of, is_other_kind
from gateway.identity.credentials import Challenge, Tokens, well_formed
from gateway.identity.keys import shown
from gateway.identity.remembered import Remembered
from gateway.model.request import Request, Subject
from gateway.model.settings import IntrospectionIdentity
from gateway.resilience.deadline import Deadline
from gateway.resilience.evidence import WIDESPREAD, Answers, Blame
from gateway.upstream.auth import Credentials
from gateway.upstream.transport import cause_of

_log = logging.getLogger("gateway.identity")

MAX_REMEMBERED_BYTES: Final = 64 * 1024 * 1024
_TIMEOUT_S: Final = 5.0
_TIMEOUTS: Final = httpx.Timeout(0.9 * _TIMEOUT_S)  # ends first, so that the cause is told
_MAX_ANSWER_BYTES: Final = 64 * 1024
_MAX_REFUSED: Final = 10_000
_REFUSED_FOR_S: Final = 5.0
_MAX_CALLS: Final = 32
_MAX_WAITING: Final = 1000
_MAX_WAITING_EACH: Final = 250
"""Tokens of one client that may wait to be asked about."""
_FAILURES: Final = 3
_QUIET_S: Final = 1.0
_QUIET_MAX_S: Final = 10.0
_OK: Final = 200
_OUR_CREDENTIALS: Final = (401, 403)
_SERVER_ERROR: Final = 500
_TOO_MANY: Final = 429

Answer = Mapping[str, Any] | None
"""What the endpoint says of an active token; None of any other."""


class _Unanswered(Exception):
    """No answer; the text says why and holds no secret. `counts`: it is the endpoint's own failure."""

    def __init__(self, reason: str, *, counts: bool = True) -> None:
        super().__init__(reason)
        self.counts = counts


class IntrospectionIdentifier:
    """Opaque token → Subject. `clock` is Unix time, `monotonic` never goes back."""

    def __init__(
        self,
        settings: IntrospectionIdentity,
        *,
        http: httpx.AsyncClient,
        credentials: Credentials | None,
        tokens: Tokens,
        challenge: Challenge,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = _Endpoint(settings.url, http, credentials)
        self._reader = ClaimReader(settings.rules, source=settings.url)
        self._cache_s = settings.cache_s
        self._tokens = tokens
        self._challenge = challenge
        self._clock = clock
        self._monotonic = monotonic
        self._remembered = Remembered(MAX_REMEMBERED_BYTES, clock=clock, monotonic=monotonic)
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Answer | _Unanswered]] = {}
        self._clients: Counter[str] = Counter()
        self._calls = asyncio.Semaphore(_MAX_CALLS)
        self._evidence = Answers()
        self._failures = 0
        self._failing: set[str] = set()
        self._quiet_until_s = 0.0
        self._failure = ""

    async def identify(self, request: Request) -> Subject:
        """See Identifier."""
        token = self._tokens.of(request)
        digest = sha256(token).digest()
        subject = self._remembered.get(digest)
        if subject is not None:
            return subject
        if not well_formed(token):
            raise self._challenge.invalid("The token is malformed.")
        # So that one bad token is not asked about without end; kept as a hash, for a few seconds.
        if self._refused.get(digest, 0.0) > self._monotonic():
            raise self._inactive()
        return self._judged(await self._answer(token, digest, request.client), digest)

    def late(self) -> GatewayError:
        """See Identifier."""
        return self._unavailable(f"introspection at {self._endpoint.name} did not answer within the deadline")

    async def aclose(self) -> None:
        """End questions that are under way."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, token: bytes, digest: bytes, client: str) -> Answer:
        task = self._asking.get(digest)
        if task is None:
            self._refuse_while_quiet(client)
            if len(self._asking) >= _MAX_WAITING or self._clients[client] >= _MAX_WAITING_EACH:
                raise self._unavailable(f"too many tokens wait for introspection at {self._endpoint.name}")
            self._clients[client] += 1
            task = self._asking[digest] = asyncio.create_task(self._ask(token, digest, client))
        # Shared by all requests with this token: whoever leaves ends it for nobody else.
        answer = await asyncio.shield(task)
        if isinstance(answer, _Unanswered):
            raise self._unavailable(f"introspection at {self._endpoint.name}: {answer}")
        return answer

    async def _ask(self, token: bytes, digest: bytes, client: str) -> Answer | _Unanswered:
        before = self._evidence.answers
        try:
            async with self._calls:
                answer = await self._endpoint.ask(token)
        except _Unanswered as error:
            if error.counts:
                self._failed(error, client, self._evidence.blame(before))
            return error
        finally:
            del self._asking[digest]
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]
        self._failures = 0
        self._failing.clear()
        self._evidence.answers += 1
        return answer

    def _failed(self, error: _Unanswered, client: str, blame: Blame) -> None:
        # One that fails while others are answered is no failure of the endpoint.
        if blame is Blame.REQUEST:
            return
        self._failures += 1
        self._failure = str(error)
        if len(self._failing) < WIDESPREAD:
            self._failing.add(client)
        if self._failures >= _FAILURES:
            quiet_s = min(_QUIET_MAX_S, _QUIET_S * 2 ** min(self._failures - _FAILURES, 10))
            self._quiet_until_s = self._monotonic() + quiet_s
        _log.warning("[identity] Introspection at %s: %s", self._endpoint.name, error)

    def _refuse_while_quiet(self, client: str) -> None:
        """Let one request through each time the quiet is over: the next one is refused until its answer is here."""
        # Failures of fewer than three clients hold back these alone: their tokens may be the cause.
        if self._failures < _FAILURES or (len(self._failing) < WIDESPREAD and client not in self._failing):
            return
        if self._monotonic() < self._quiet_until_s or self._asking:
            raise self._unavailable(f"introspection at {self._endpoint.name}: {self._failure}")

    def _unavailable(self, reason: str) -> GatewayError:
        left_s = max(0.0, self._quiet_until_s - self._monotonic())
        detail = "The token cannot be checked at the moment, so nothing was forwarded."
        return GatewayError("identity_unavailable", detail, retry_after_s=left_s, reason=reason)

    def _judged(self, claims: Answer, digest: bytes) -> Subject:
        if claims is None:
            self._refuse(digest)
            raise self._inactive()
        now_s = self._clock()
        try:
            _check_kind(claims)
            exp_s = _ends_s(claims, now_s)
            subject = self._reader.subject(claims, exp_s)
        except TokenRefused as refused:
            raise self._challenge.invalid(str(refused)) from None
        if lacking := self._reader.lacks(claims):
            raise self._challenge.insufficient(*lacking)
        if self._cache_s:
            until_s = now_s + self._cache_s
            # Never past the token's own end.
            until_s = until_s if exp_s is None else min(exp_s, until_s)
            self._remembered.put(digest, subject, until_s, str(claims).encode("utf-8", "replace"))
        return subject

    def _refuse(self, digest: bytes) -> None:
        self._refused[digest] = self._monotonic() + min(self._cache_s, _REFUSED_FOR_S)
        if len(self._refused) > _MAX_REFUSED:
            self._refused.popitem(last=False)

    def _inactive(self) -> GatewayError:
        return self._challenge.invalid("The token is not active.")


def _check_kind(claims: Mapping[str, Any]) -> None:
    """Raises TokenRefused for what is said not to be a bearer access token (RFC 7662 section 2.2)."""
    token_type = claims.get("token_type", "Bearer")
    # Endpoints call refresh tokens active, too.
    if not isinstance(token_type, str) or token_type.lower() != "bearer" or is_other_kind(claims):
        raise TokenRefused(OTHER_KIND)


def _ends_s(claims: Mapping[str, Any], now_s: float) -> float | None:
    """When the token ends, if that is said. Raises TokenRefused for one that is not valid now."""
    exp_s = date_of(claims["exp"]) if "exp" in claims else None
    if (exp_s is not None and exp_s <= now_s) or ("nbf" in claims and date_of(claims["nbf"]) > now_s):
        raise TokenRefused("The token is not valid now.")
    return exp_s


class _Endpoint:
    """The introspection endpoint: one request, one strict answer."""

    def __init__(self, url: str, http: httpx.AsyncClient, credentials: Credentials | None) -> None:
        self.name = shown(url)
        self._url = url
        self._http = http
        self._credentials = credentials

    async def ask(self, token: bytes) -> Answer:
        """What is said of the token. Raises _Unanswered."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                status, body = await self._post(token)
        except TimeoutError:
            raise _Unanswered(f"no complete answer within {_TIMEOUT_S:g} s") from None
        except GatewayError as error:
            raise _Unanswered(f"our credentials: {error.reason or error.code}") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            raise _Unanswered(cause_of(error)) from None
        if status != _OK:
            self._note(status)
            # A token that the endpoint does not like (400) is no failure of the endpoint.
            own = status in _OUR_CREDENTIALS or status >= _SERVER_ERROR or status == _TOO_MANY
            raise _Unanswered(f"answered {status}", counts=own)
        return _active(body)

    def _note(self, status: int) -> None:
        if status in _OUR_CREDENTIALS and self._credentials is not None:
            self._credentials.rejected()

    async def _post(self, token: bytes) -> tuple[int, bytes]:
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        if self._credentials is not None:
            for name, value in await self._credentials.headers(Deadline.after(_TIMEOUT_S)):
                headers[name.decode("ascii")] = value.decode("latin-1")
        form = {"token": token.decode("ascii"), "token_type_hint": "access_token"}
        body = bytearray()
        async with self._http.stream(
            "POST", self._url, data=form, headers=headers, timeout=_TIMEOUTS, follow_redirects=False
        ) as response:
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise _Unanswered("answered with a content coding that was not asked for")
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MAX_ANSWER_BYTES:
                    raise _Unanswered("the answer is larger than 64 KiB", counts=False)
        return response.status_code, bytes(body)


def _active(body: bytes) -> Answer:
    try:
        answer = strict_json.loads(body)
    except ValueError:
        raise _Unanswered("the answer is not a JSON document") from None
    # Only JSON `true` is good; an answer that does not say so or its contrary is the endpoint's failure.
    if not isinstance(answer, dict) or not isinstance(answer.get("active"), bool):
        raise _Unanswered("the answer does not say whether the token is active")
    return answer if answer["active"] is True else None
