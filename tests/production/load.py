"""Load that counts what went wrong: keep-alive clients that send one request after the other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

AUTHORIZATION = "Authorization: Bearer allow\r\n"


@dataclass
class Load:
    """`clients` connections to `port`, until `stop`. What is not 200 is in `failures`, by what it was."""

    port: int
    paths: tuple[str, ...]
    clients: int = 8
    pause_s: float = 0.0
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    _stopping: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(self.clients)]

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _client(self, number: int) -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        count = number
        while not self._stopping:
            path = self.paths[count % len(self.paths)]
            count += 1
            try:
                if reader is None or writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n{AUTHORIZATION}\r\n".encode())
                async with asyncio.timeout(20):
                    status, closing = await self._answer(reader)
                if status == 200:
                    self.answered += 1
                else:
                    self.failures.append(f"{path}: {status}")
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.failures.append(f"{path}: {error!r}")
                closing = True
            if closing and writer is not None:
                writer.close()
                reader = writer = None
            await asyncio.sleep(self.pause_s)
        if writer is not None:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bool]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        lines = head.split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:] if line)
        await reader.readexactly(int(fields["content-length"]))
        return int(lines[0].split()[1]), fields.get("connection") == "close"
