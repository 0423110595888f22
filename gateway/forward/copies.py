"""Last good answers: bounded copies of an upstream's answers. They are served with their age while it cannot answer.

Nothing is shared between subjects, so `private` may be kept. What a request costs does not depend on how much is kept.
Whether a copy may be served is not decided here: the caller does that, after a fresh permit.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from sys import getsizeof
from typing import Final, NamedTuple

from gateway.model.request import Headers, Request

MAX_COPY: Final = 1024 * 1024
MAX_TOTAL: Final = 64 * 1024 * 1024
SUBJECT_SHARE: Final = 20
EVICTING: Final = frozenset({401, 403, 404, 410})

_MAX_VARIANTS: Final = 8
_OVERHEAD: Final = 1024  # what a copy costs beside its fields, key and body: its objects, its places in three tables
_CREDENTIALS: Final = frozenset({b"authorization", b"cookie"})
_IDENTITY: Final = b"x-auth-"
_OUTSIDE: Final = frozenset(b"x-forwarded-" + part for part in (b"proto", b"host", b"port", b"prefix"))
_NOT_FRESHENED: Final = frozenset(
    {b"content-length", b"content-encoding", b"content-type", b"content-range", b"set-cookie", b"transfer-encoding"}
) | frozenset({b"connection", b"keep-alive", b"trailer", b"upgrade", b"proxy-authenticate", b"te"})
_SAFE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})
_MAX_AGE: Final = 2**31 - 1  # RFC 9111 section 1.2.2


Variant = tuple[tuple[bytes, bytes], ...]
"""By name of the fields that an answer varies with: a hash of all values of that field in the request."""


class CopyKey(NamedTuple):
    """One question. `place` is the route (or `route.part`) with its upstream; `subject` is `Subject.key`, no token.

    `sent`: what else the upstream could tell callers apart by, see `sent_with`. `owner`: what the subject is called
    where it is purged by its id (`name_of`).
    """

    place: str
    subject: str
    host: str
    target: bytes
    sent: bytes = b""
    owner: str = ""


def sent_with(headers: Headers, *, own: bool) -> bytes:
    """SHA-256 of what the answer may depend on beside the subject: credentials, and the gateway's address from outside.

    These are `Authorization`, `Cookie`, who the gateway says it is, and what links and redirects are made from.
    `own`: the upstream is sent the gateway's own credentials in place of the caller's.
    """
    told = hashlib.sha256()
    for name, value in headers:
        if name.startswith(_IDENTITY) or name in _OUTSIDE or (not own and name in _CREDENTIALS):
            told.update(b"%d:%b%d:%b" % (len(name), name, len(value), value))
    return told.digest()


def kept_under(target: bytes, request: Request) -> bytes:
    """The target as a key has it: a hash where the upstream is sent a token in it."""
    taken = request.taken
    return target if taken is None or not taken.put_back else hashlib.sha256(target).digest()


@dataclass(frozen=True, slots=True)
class Copy:
    """One answer. `headers` are the upstream's, all of them. Times are monotonic."""

    status: int
    headers: Headers
    body: bytes
    sent: bytes
    vary: Variant
    stored_s: float
    initial_age_s: int
    size: int


def place_of(name: str, upstream: str, place: str, prefix: bytes = b"") -> str:
    """Where the questions of a route or part go, `prefix` being what is taken off their targets.

    `place` tells the addresses of the upstream apart: at another system the same target means something else, and
    copies outlive a reload.
    """
    return f"{name} {upstream} {place} {prefix.decode('ascii')}"


def field_values(headers: Headers, name: bytes) -> list[bytes]:
    """All values of a header field."""
    return [value for key, value in headers if key == name]


def storable(request_headers: Headers, status: int, headers: Headers) -> bool:
    """Whether an answer to GET may be kept, as far as its head tells."""
    if status != 200:  # the one status that is kept
        return False
    names = {name for name, _ in headers}
    # Never with `Set-Cookie`, nor with `Vary: *`, nor `no-store` from either side.
    if b"set-cookie" in names or b"*" in _tokens(field_values(headers, b"vary")):
        return False
    said = field_values(headers, b"cache-control") + field_values(request_headers, b"cache-control")
    return b"no-store" not in _tokens(said)


class Copies:
    """All copies of this process. `clock` is monotonic, in seconds."""

    def __init__(
        self, *, max_copy: int = MAX_COPY, max_total: int = MAX_TOTAL, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_copy = max_copy
        self._max_total = max_total
        self._share = max_total // SUBJECT_SHARE
        self._clock = clock
        self._answers: OrderedDict[CopyKey, list[Copy]] = OrderedDict()
        self._subjects: dict[str, _Share] = {}
        self._total = 0

    def __repr__(self) -> str:
        return f"<Copies: {len(self._answers)} questions, {self._total} bytes>"

    def keep(self, key: CopyKey, request_headers: Headers, headers: Headers, body: bytes) -> None:
        """Keep a complete 200 that is `storable`, in place of the older answer to the same question."""
        vary = _variant(headers, request_headers)
        size = _measured(key, headers, body, vary)
        # A newer answer replaces the copy, even if it may not be kept itself.
        if len(body) > self.max_copy or size > self._share:
            self.evict(key)
            return
        copy = Copy(200, headers, body, key.sent, vary, self._clock(), _initial_age(headers), size)
        others = [old for old in self._answers.get(_asked(key), ()) if not _same_variant(old, copy)]
        self._put(key, [*others[-_MAX_VARIANTS + 1 :], copy])

    def find(self, key: CopyKey, request_headers: Headers, max_stale_s: float) -> Copy | None:
        """The copy for this question that is younger than `max_stale_s`, or None."""
        asked = _asked(key)
        for copy in reversed(self._answers.get(asked, ())):
            if copy.sent == key.sent and self.age_s(copy) < max_stale_s and _matches(copy, request_headers):
                self._answers.move_to_end(asked)
                self._subjects[key.subject].keys.move_to_end(asked)
                return copy
        return None

    def freshen(self, key: CopyKey, request_headers: Headers, headers: Headers) -> None:
        """A 304 came: its copy is as fresh as the 304 now, and gets its fields (RFC 9111 section 4.3.4)."""
        copies = self._answers.get(_asked(key), ())
        for old in copies:
            if old.sent == key.sent and _matches(old, request_headers) and _is_about(old, request_headers, headers):
                break
        else:
            return
        fields = _freshened(old.headers, headers)
        if not storable(request_headers, old.status, fields):
            self.evict(key)
            return
        vary = _variant(fields, request_headers)
        size = _measured(key, fields, old.body, vary)
        new = Copy(old.status, fields, old.body, old.sent, vary, self._clock(), _initial_age(headers), size)
        self._put(key, [*(copy for copy in copies if copy is not old), new])

    def learn(self, key: CopyKey, method: bytes, status: int) -> None:
        """An answer that is not kept: forget the copies that it makes outdated."""
        # It must not be shown any more, or an unsafe request changed it (RFC 9111 section 4.4).
        if status in EVICTING or (method not in _SAFE and status < 400):  # not an error
            self.evict(key)

    def evict(self, key: CopyKey) -> None:
        """Forget every answer to this question, whatever it was sent with."""
        if _asked(key) in self._answers:
            self._replace(_asked(key), [])

    def evict_owner(self, owner: str) -> None:
        """Forget everything of the subjects with this name."""
        for key in [key for key in self._answers if key.owner == owner]:
            self._replace(key, [])

    def clear(self) -> None:
        """Forget everything."""
        self._answers.clear()
        self._subjects.clear()
        self._total = 0

    def age_s(self, copy: Copy) -> float:
        """Seconds since the copy was made, or was made fresh again."""
        return self._clock() - copy.stored_s

    def snapshot(self) -> dict[str, int]:
        """What a status page shows. Sizes in bytes."""
        return {"questions": len(self._answers), "bytes": self._total, "max_bytes": self._max_total}

    def _put(self, key: CopyKey, copies: list[Copy]) -> None:
        """These are the answers to `key` now, the oldest first, as far as the subject's share goes."""
        size = sum(copy.size for copy in copies)
        while size > self._share:
            size -= copies.pop(0).size
        self._replace(_asked(key), copies)
        share = self._subjects[key.subject]
        # One subject holds at most a twentieth, so that no subject evicts all others.
        while share.size > self._share:
            self._replace(next(iter(share.keys)), [])
        while self._total > self._max_total:
            self._replace(next(iter(self._answers)), [])

    def _replace(self, asked: CopyKey, copies: list[Copy]) -> None:
        """The answers to a question are now `copies`; without copies its entry is removed."""
        share = self._subjects.setdefault(asked.subject, _Share())
        size = sum(copy.size for copy in copies)
        more = size - share.keys.pop(asked, 0)
        self._total += more
        share.size += more
        self._answers.pop(asked, None)
        if copies:
            self._answers[asked] = copies
            share.keys[asked] = size
        elif not share.keys:
            del self._subjects[asked.subject]


class _Share:
    """What one subject holds: the bytes of each question, the least recently used first, and of all."""

    __slots__ = ("keys", "size")

    def __init__(self) -> None:
        self.keys: OrderedDict[CopyKey, int] = OrderedDict()
        self.size = 0


def _asked(key: CopyKey) -> CopyKey:
    """The question without what it was sent with: the answers to all of these stand together."""
    return key._replace(sent=b"") if key.sent else key


def served_headers(copy: Copy, age_s: float) -> Headers:
    """The header fields of a copy that is served: its own with its `Age` (RFC 9111 section 5.1)."""
    age = min(int(age_s) + copy.initial_age_s, _MAX_AGE)
    kept = [header for header in copy.headers if header[0] not in (b"age", b"content-length")]
    return [*kept, (b"age", b"%d" % age)]


def _variant(headers: Headers, request_headers: Headers) -> Variant:
    names = sorted(_tokens(field_values(headers, b"vary")))
    # Hashes of what was sent, as that may be a token.
    return tuple((name, _sent(request_headers, name)) for name in names)


def _matches(copy: Copy, request_headers: Headers) -> bool:
    return all(_sent(request_headers, name) == sent for name, sent in copy.vary)


def _sent(request_headers: Headers, name: bytes) -> bytes:
    # No field value has a line feed in it (RFC 9110 section 5.5), so the joined text tells every list of them apart.
    return hashlib.sha256(b"\n".join([b"", *field_values(request_headers, name)])).digest()


def _same_variant(old: Copy, new: Copy) -> bool:
    """Whether a newer answer takes the place of `old`."""
    if old.sent != new.sent:
        return False
    return old.vary == new.vary or [name for name, _ in old.vary] != [name for name, _ in new.vary]


def _is_about(copy: Copy, request_headers: Headers, headers: Headers) -> bool:
    """Whether a 304 with these fields, to a request with those, says that this copy is still what it was.

    By its entity tag; by what the caller asked about, if it says none; else by the date. Tags are compared weakly: the
    copy is another representation only if the upstream says so.
    """
    for name, asked in ((b"etag", b"if-none-match"), (b"last-modified", b"if-modified-since")):
        own = field_values(copy.headers, name)
        said = field_values(headers, name) or field_values(request_headers, asked)
        if own and said:
            return len(said) == 1 and said[0].removeprefix(b"W/") == own[0].removeprefix(b"W/")
    return False


def _freshened(old: Headers, new: Headers) -> Headers:
    """The fields of a copy after a 304: those that it names are replaced, except what describes the body."""
    fields = [field for field in new if field[0] not in _NOT_FRESHENED]
    names = {name for name, _ in fields}
    return [*(field for field in old if field[0] not in names and field[0] != b"age"), *fields]


def _measured(key: CopyKey, headers: Headers, body: bytes, vary: Variant) -> int:
    """The bytes that a copy takes up: every object of its own, with the parts that the interpreter adds."""
    fields = sum(getsizeof(name) + getsizeof(value) + getsizeof((name, value)) for name, value in (*headers, *vary))
    texts = sum(getsizeof(text) for text in key)
    return _OVERHEAD + getsizeof(body) + getsizeof(headers) + fields + texts


def _tokens(values: Iterable[bytes]) -> set[bytes]:
    """Comma-separated names in lower case, arguments cut off."""
    return {
        token.partition(b"=")[0].strip().lower() for value in values for token in value.split(b",") if token.strip()
    }


def _initial_age(headers: Headers) -> int:
    values = field_values(headers, b"age")
    return min(int(values[0]), _MAX_AGE) if len(values) == 1 and values[0].isdigit() and len(values[0]) < 12 else 0
