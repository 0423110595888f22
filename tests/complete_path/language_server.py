"""An editor of few words: speaks the Language Server Protocol (JSON-RPC over stdio) with a language server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.complete_path.patience import PATIENCE_S

SETTINGS = {
    "yaml": {"validate": True, "completion": True, "hover": True, "schemaStore": {"enable": False}, "schemas": {}},
    "http": {},
    "editor": {},
}


class Editor:
    """Opens documents and asks about them. Whatever the server asks the editor is answered with its settings."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._out, self._in = process.stdin, process.stdout
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._diagnosed: dict[str, asyncio.Future[list[dict[str, Any]]]] = {}
        self._listening = asyncio.create_task(self._listen())

    async def begin(self, folder: Path) -> None:
        """The handshake."""
        root = folder.as_uri()
        capabilities = {"textDocument": {"publishDiagnostics": {}}, "workspace": {"configuration": True}}
        await self.ask("initialize", {"processId": None, "rootUri": root, "capabilities": capabilities})
        self.tell("initialized", {})
        self.tell("workspace/didChangeConfiguration", {"settings": SETTINGS})

    async def diagnostics(self, file: Path, text: str) -> list[dict[str, Any]]:
        """Open a file with this text; what the server has to say about it."""
        found = self._diagnosed[file.as_uri()] = asyncio.get_running_loop().create_future()
        document = {"uri": file.as_uri(), "languageId": "yaml", "version": 1, "text": text}
        self.tell("textDocument/didOpen", {"textDocument": document})
        return await asyncio.wait_for(found, PATIENCE_S)

    async def completions(self, file: Path, line: int, character: int) -> list[str]:
        """The labels offered at a place (from 0) of an open file."""
        position = {"line": line, "character": character}
        answer = await self.ask(
            "textDocument/completion", {"textDocument": {"uri": file.as_uri()}, "position": position}
        )
        items = answer["items"] if isinstance(answer, dict) else answer
        return [item["label"] for item in items]

    async def hover(self, file: Path, line: int, character: int) -> str:
        """What is shown at a place (from 0) of an open file."""
        position = {"line": line, "character": character}
        answer = await self.ask("textDocument/hover", {"textDocument": {"uri": file.as_uri()}, "position": position})
        return str(answer["contents"]["value"]) if answer else ""

    async def ask(self, method: str, params: Any) -> Any:
        """A request and its result."""
        number = len(self._waiting) + 1
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send({"id": number, "method": method, "params": params})
        return await asyncio.wait_for(self._waiting[number], PATIENCE_S)

    def tell(self, method: str, params: Any) -> None:
        """A notification."""
        self._send({"method": method, "params": params})

    async def end(self) -> None:
        """The orderly goodbye."""
        await self.ask("shutdown", None)
        self.tell("exit", None)
        self._listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._listening

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._out.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    async def _listen(self) -> None:
        while True:
            head = await self._in.readuntil(b"\r\n\r\n")
            length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            self._take(json.loads(await self._in.readexactly(int(length.partition(b":")[2]))))

    def _take(self, message: dict[str, Any]) -> None:
        method, number = message.get("method"), message.get("id")
        if method == "workspace/configuration":
            asked = message["params"]["items"]
            self._send({"id": number, "result": [SETTINGS.get(item.get("section", ""), {}) for item in asked]})
        elif method is not None and number is not None:
            self._send({"id": number, "result": None})
        elif method == "textDocument/publishDiagnostics":
            found = self._diagnosed.get(message["params"]["uri"])
            if found is not None and not found.done():
                found.set_result(message["params"]["diagnostics"])
        elif method is None and not self._waiting[message["id"]].done():
            self._waiting[message["id"]].set_result(message.get("result"))


@asynccontextmanager
async def editor(*command: str, folder: Path) -> AsyncIterator[Editor]:
    """An editor with a running language server."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24
    )
    try:
        one = Editor(process)
        await one.begin(folder)
        yield one
        await one.end()
        await asyncio.wait_for(process.wait(), PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
