"""IAM and the origins of the simulation: what they do when well, and how they fail."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

from tests.simulation.wires import Wire

LATENCIES_S = (0.01, 0.01, 0.02, 0.05)  # few values, so that much happens in one turn of the loop
FAULTS = ("hang", "refuse", "swallow", "502", "reset", "end", "garbage", "cut", "stall")
"""What a dependency that is down does to everybody."""
_OF_ITEMS = ("item", "lie")
"""What is wrong with one item of an answer, and with no other."""


def reply(body: bytes, status: bytes = b"200 OK", *fields: bytes, length: int | None = None) -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % (len(body) if length is None else length), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


_DOES: dict[str, tuple[bytes | Callable[[Wire], None], ...]] = {
    "500": (reply(b"oops", b"500 Oops"),),
    "502": (reply(b"oops", b"502 Oops"),),
    "503": (reply(b"busy", b"503 Busy", b"Retry-After: 30"),),
    "429": (reply(b"slowly", b"429 Slowly", b"Retry-After: 30"),),
    "reset": (Wire.reset,),
    "refuse": (Wire.reset,),
    "end": (Wire.end,),
    "garbage": (b"garbage\r\n\r\n",),
    "cut": (reply(b"{", length=50), Wire.end),
    "stall": (reply(b"{", length=50),),
}
_SILENT = ("hang", "swallow", "stall")


class Server:
    """`fault` is what it does to everybody; "" is well. `heard`: how many requests have come."""

    def __init__(self, name: str, chance: random.Random, log: Callable[..., None]) -> None:
        self.name, self.chance, self.log = name, chance, log
        self.fault = ""
        self.sick_until_s = self.well_since_s = 0.0
        self.heard = 0

    @property
    def refuses(self) -> bool:
        return self.fault == "refuse"

    @property
    def swallows(self) -> bool:
        return self.fault == "swallow"

    def become(self, fault: str) -> None:
        """From now on. Who was sick is sick to this moment."""
        now = asyncio.get_running_loop().time()
        if self.fault:
            self.sick_until_s = now
        if self.fault and not fault:
            self.well_since_s = now
        self.fault = fault

    def sick_within(self, seconds: float) -> bool:
        """Whether it failed everybody at some time of the last `seconds`."""
        return bool(self.fault) or asyncio.get_running_loop().time() - self.sick_until_s < seconds

    def on_request(self, wire: Wire, head: bytes, body: bytes) -> None:
        self.heard += 1
        self.came(head, body)
        wait_s = self.chance.choice(LATENCIES_S)
        wire.loop.call_later(wait_s, self._act, wire, head, body)

    def _act(self, wire: Wire, head: bytes, body: bytes) -> None:
        fault = self.fault or self.own_fault(head, body)
        if wire.closing:
            return
        self.log(self.name, "does", fault or "well", head.split(b"\r\n", 1)[0].decode())
        if not fault:
            self._well(wire, head, body)
        for piece in _DOES.get(fault, ()):
            if isinstance(piece, bytes):
                wire.send(piece)
            else:
                piece(wire)
        if fault not in _SILENT:
            wire.answered()

    def _well(self, wire: Wire, head: bytes, body: bytes) -> None:
        whole = reply(self.answer(head, body))
        cut = self.chance.randrange(len(whole))
        if self.chance.random() < 0.3 and cut:
            wire.send(whole[:cut])
            wire.loop.call_soon(wire.send, whole[cut:])
        else:
            wire.send(whole)
        if self.chance.random() < 0.05:
            wire.loop.call_later(self.chance.choice((0.0, 0.01)), wire.end)  # keep-alive ends when it likes

    def came(self, head: bytes, body: bytes) -> None:
        """A request has come, whatever is done with it."""

    def own_fault(self, head: bytes, body: bytes) -> str:
        """What this request gets though the server is well."""
        raise NotImplementedError

    def answer(self, head: bytes, body: bytes) -> bytes:
        """The body of its answer when well."""
        raise NotImplementedError


class Iam(Server):
    """Permits all but mallory, and writes down what it said. A question about `poison-FAULT…` gets that fault."""

    def __init__(self, *args: Any) -> None:
        super().__init__("iam", *args)
        self.permitted: dict[tuple[str, str], float] = {}
        self.denied: set[tuple[str, str]] = set()
        self.revoked: set[str] = {"mallory"}
        self.poisoners: set[str] = set()

    def came(self, head: bytes, body: bytes) -> None:
        self.poisoners |= {item["subject"]["id"] for item in _items(body) if _poison(item)}

    def fails_many(self) -> bool:
        """Whether three subjects asked what always fails since it last decided anything.

        Then it is taken for being at fault although it is well. Where fewer ask such questions it never may.
        """
        return len(self.poisoners) >= 3

    def own_fault(self, head: bytes, body: bytes) -> str:
        for item in _items(body):
            if (fault := _poison(item)) and fault not in _OF_ITEMS:
                return fault
        return ""

    def answer(self, head: bytes, body: bytes) -> bytes:
        return json.dumps({"evaluations": [self._said(item, _poison(item)) for item in _items(body)]}).encode()

    def _said(self, item: dict[str, Any], fault: str) -> dict[str, Any]:
        about = (item["subject"]["id"], item["resource"]["id"])
        if fault == "item":
            return {"decision": False, "context": {"error": {"status": 500, "message": "no such thing"}}}
        if fault == "lie":
            return {"decision": "true"}
        if about[0] != "gateway":
            self.poisoners.clear()
        permits = about[0] not in self.revoked and about[0] != "gateway"
        if permits:
            self.permitted[about] = asyncio.get_running_loop().time()
        else:
            self.denied.add(about)
        return {"decision": permits}


class Origin(Server):
    """Echoes the target. A target with `spoilt-FAULT…` gets that fault."""

    def __init__(self, name: str, chance: random.Random, log: Callable[..., None], seen: Callable[..., None]) -> None:
        super().__init__(name, chance, log)
        self.seen = seen
        self.answered_s: dict[str, float] = {}
        self.spoilt_s: dict[str, float] = {}

    def only_spoilt(self, route: str) -> bool:
        """Whether all that it was asked lately on this route fails always: who else is answered is not known then."""
        now = asyncio.get_running_loop().time()
        return now - self.answered_s.get(route, 0.0) >= 1.0 and now - self.spoilt_s.get(route, 0.0) < 10.0

    def came(self, head: bytes, body: bytes) -> None:
        lines = head.split(b"\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in lines[1:])
        self.seen(self, lines[0].split(b" ")[1].decode(), fields.get(b"x-auth-subject", b"").decode())

    def own_fault(self, head: bytes, body: bytes) -> str:
        _, route, item = head.split(b" ", 2)[1].decode().split("/")
        if not item.startswith("spoilt-"):
            return ""
        self.spoilt_s[route] = asyncio.get_running_loop().time()
        return item.split("-")[1]

    def answer(self, head: bytes, body: bytes) -> bytes:
        target = head.split(b" ", 2)[1]
        self.answered_s[target.decode().split("/")[1]] = asyncio.get_running_loop().time()
        return b"echo " + target


def _poison(item: dict[str, Any]) -> str:
    """The fault that this question always gets."""
    name = str(item["resource"]["id"])
    return name.split("-")[1] if name.startswith("poison-") else ""


def _items(body: bytes) -> list[dict[str, Any]]:
    document = json.loads(body)
    items = document.get("evaluations")
    if items is None:
        return [document]
    return [{key: value for key, value in document.items() if key != "evaluations"} | item for item in items]
