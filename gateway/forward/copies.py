"""Last good answers: bounded copies of what an upstream said, to be served with their age while it cannot answer.

What is kept: complete answers with status 200 to GET, at most `MAX_COPY` bytes each and `MAX_TOTAL` in all; never with
`Set-Cookie`, never `no-store` (said by either side), never with `Vary: *`. A key names where the question went, who
asked it, at which host and target; `Vary` tells the answers to one key apart, by hashes of what was sent, since that
may be a token. Nothing is ever shared between subjects, so `private` may be kept. One subject holds at most a twentieth
of everything, so that nobody evicts everybody.
What ends a copy: a newer answer to the same question, whether that may be kept or not; 401, 403, 404 and 410, after
which the old answer is nobody's business any more; a successful unsafe request to the same target (RFC 9111 section
4.4); the least recently used go first when there is no room.
Whether a copy may be served is not decided here: the caller does that, after a fresh permit.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from gateway.model.request import Headers, Request

MAX_COPY: Final = 1024 * 1024
MAX_TOTAL: Final = 64 * 1024 * 1024
SUBJECT_SHARE: Final = 20
EVICTING: Final = frozenset({401, 403, 404, 410})

_MAX_VARIANTS: Final = 8
_OVERHEAD: Final = 512  # what a copy costs beside its bytes
_SAFE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})
_MAX_AGE: Final = 2**31 - 1  # RFC 9111 section 1.2.2


Variant = tuple[tuple[bytes, bytes], ...]
"""By name of the fields that an answer varies with: a hash of all values of that field in the request."""


class CopyKey(NamedTuple):
    """One question. `place` is the route (or `route.part`) with its upstream; `subject` is `Subject.key`, no token."""

    place: str
    subject: str
    host: str
    target: bytes


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
    vary: Variant
    stored_s: float
    initial_age_s: int
    size: int


def place_of(name: str, upstream: str, authority: bytes, prefix: bytes = b"") -> str:
    """Where the questions of a route or part go, `prefix` being what is taken off their targets.

    At another system the same target means something else, and copies outlive a reload.
    """
    return f"{name} {upstream} {authority.decode('ascii')} {prefix.decode('ascii')}"


def field_values(headers: Headers, name: bytes) -> list[bytes]:
    """All values of a header field."""
    return [value for key, value in headers if key == name]


def storable(request_headers: Headers, status: int, headers: Headers) -> bool:
    """Whether an answer to GET may be kept, as far as its head tells."""
    if status != 200:  # noqa: PLR2004 - the one status that is kept
        return False
    names = {name for name, _ in headers}
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
        self._subjects: dict[str, OrderedDict[CopyKey, int]] = {}
        self._total = 0

    def __repr__(self) -> str:
        return f"<Copies: {len(self._answers)} questions, {self._total} bytes>"

    def keep(self, key: CopyKey, request_headers: Headers, headers: Headers, body: bytes) -> None:
        """Keep a complete 200 that is `storable`, in place of the older answer to the same question."""
        vary = _variant(headers, request_headers)
        size = len(body) + sum(len(name) + len(value) for name, value in headers) + len(key.target) + _OVERHEAD
        if len(body) > self.max_copy or size > self._share:
            self.evict(key)
            return
        copies = [old for old in self._answers.get(key, ()) if not _same_variant(old, vary)][-_MAX_VARIANTS + 1 :]
        copies.append(Copy(200, headers, body, vary, self._clock(), _initial_age(headers), size))
        while sum(copy.size for copy in copies) > self._share:
            copies.pop(0)
        self._replace(key, copies)
        self._make_room(key.subject)

    def find(self, key: CopyKey, request_headers: Headers, max_stale_s: float) -> Copy | None:
        """The copy for this question that is younger than `max_stale_s`, or None."""
        for copy in reversed(self._answers.get(key, ())):
            if self.age_s(copy) < max_stale_s and _matches(copy, request_headers):
                self._answers.move_to_end(key)
                self._subjects[key.subject].move_to_end(key)
                return copy
        return None

    def learn(self, key: CopyKey, method: bytes, status: int) -> None:
        """An answer that is not kept: forget what it makes untrue."""
        if key in self._answers and (status in EVICTING or (method not in _SAFE and status < 400)):  # noqa: PLR2004
            self.evict(key)

    def evict(self, key: CopyKey) -> None:
        """Forget every answer to this question."""
        if key in self._answers:
            self._replace(key, [])

    def clear(self) -> None:
        """Forget everything."""
        self._answers.clear()
        self._subjects.clear()
        self._total = 0

    def age_s(self, copy: Copy) -> float:
        """Seconds since the copy was made."""
        return self._clock() - copy.stored_s

    def snapshot(self) -> dict[str, int]:
        """What a status page shows. Sizes in bytes."""
        return {"questions": len(self._answers), "bytes": self._total, "max_bytes": self._max_total}

    def _replace(self, key: CopyKey, copies: list[Copy]) -> None:
        """The answers to `key` are now `copies`; nothing is left behind for none."""
        own = self._subjects.setdefault(key.subject, OrderedDict())
        self._total += sum(copy.size for copy in copies) - own.pop(key, 0)
        self._answers.pop(key, None)
        if copies:
            self._answers[key] = copies
            own[key] = sum(copy.size for copy in copies)
        elif not own:
            del self._subjects[key.subject]

    def _make_room(self, subject: str) -> None:
        """Evict the subject's oldest over its share, then anybody's oldest over the total."""
        own = self._subjects[subject]
        while sum(own.values()) > self._share:
            self.evict(next(iter(own)))
        while self._total > self._max_total:
            self.evict(next(iter(self._answers)))


def served_headers(copy: Copy, age_s: float) -> Headers:
    """The header fields of a copy that is served: its own with its `Age` (RFC 9111 section 5.1)."""
    age = min(int(age_s) + copy.initial_age_s, _MAX_AGE)
    kept = [header for header in copy.headers if header[0] not in (b"age", b"content-length")]
    return [*kept, (b"age", b"%d" % age)]


def _variant(headers: Headers, request_headers: Headers) -> Variant:
    names = sorted(_tokens(field_values(headers, b"vary")))
    return tuple((name, _sent(request_headers, name)) for name in names)


def _matches(copy: Copy, request_headers: Headers) -> bool:
    return all(_sent(request_headers, name) == sent for name, sent in copy.vary)


def _sent(request_headers: Headers, name: bytes) -> bytes:
    # No field value has a line feed in it (RFC 9110 section 5.5), so the joined text tells every list of them apart.
    return hashlib.sha256(b"\n".join([b"", *field_values(request_headers, name)])).digest()


def _same_variant(old: Copy, vary: Variant) -> bool:
    """Whether a newer answer with `vary` takes the place of `old`."""
    return old.vary == vary or [name for name, _ in old.vary] != [name for name, _ in vary]


def _tokens(values: Iterable[bytes]) -> set[bytes]:
    """Comma-separated names in lower case, arguments cut off."""
    return {
        token.partition(b"=")[0].strip().lower() for value in values for token in value.split(b",") if token.strip()
    }


def _initial_age(headers: Headers) -> int:
    values = field_values(headers, b"age")
    return min(int(values[0]), _MAX_AGE) if len(values) == 1 and values[0].isdigit() and len(values[0]) < 12 else 0  # noqa: PLR2004
