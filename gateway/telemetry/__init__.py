"""Names, hooks, access record, spans and metrics: rooms say what happened, this one decides who hears of it.

`observer` has the hooks and imports nothing; the other rooms know only it. `setup.build_observer` puts everything
together; `otlp` alone knows the SDK.
"""

from __future__ import annotations

from gateway.telemetry.setup import Telemetry, build_observer, exposition, line_of, log_to_stderr

__all__ = ["Telemetry", "build_observer", "exposition", "line_of", "log_to_stderr"]
