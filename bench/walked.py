"""Names the files of the package that one warm GET runs through, IAM asked once: a line each.

python bench/walked.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import in_process
import uvloop

import gateway.upstream.upstream
from gateway.admin.recent import Recent
from gateway.app.running import Gateway
from gateway.config import load
from gateway.server.factory import uvicorn_config
from gateway.telemetry import build_observer

_PACKAGE = str(Path(gateway.__file__).parent)


async def main() -> None:
    """Warm up, then watch one request on one connection."""
    gateway.upstream.upstream.Dialer = in_process.Dialler  # type: ignore[misc,assignment]
    case = in_process.CASES["authorized, one connection"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "routes.yaml"
        file.write_text(in_process.ROUTES.replace("SERVER", case.server))
        configuration = load(file, os.environ)
    recent, walked = Recent(), set[str]()
    with open(os.devnull, "wb", buffering=0) as nowhere:  # noqa: ASYNC230
        telemetry = build_observer(configuration.server, os.environ, also=[recent], stdout=nowhere, stderr=nowhere)
        running = Gateway(configuration, telemetry, lambda same: same, recent)
        config = uvicorn_config(running.pipeline, configuration.server, on_refusal=telemetry.refused, lifespan="off")
        config.load()
        clients = in_process.Clients(config, case)
        await clients.ask(in_process.WARM_UP)

        def note(frame: FrameType, event: str, _: Any) -> None:
            if event == "call" and frame.f_code.co_filename.startswith(_PACKAGE):
                walked.add(frame.f_code.co_filename.removeprefix(_PACKAGE + "/"))

        sys.setprofile(note)
        await clients.ask(1)
        sys.setprofile(None)
        print("\n".join(sorted(walked)))
        sys.stdout.flush()
        os._exit(0)  # in-process peers are never closed in order


if __name__ == "__main__":
    os.environ.setdefault("OTEL_TRACES_EXPORTER", "none")
    uvloop.run(main())
