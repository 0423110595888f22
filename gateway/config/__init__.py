"""`routes.yaml` and `policies/` → one frozen `Configuration`, or every mistake in them at once.

    read YAML with places → fill in variables → validate the keys → compile → look across sections

`load` is the only way in. Its neighbours say what a configuration means (`failure_matrix`), what a change weakens
(`weakened`), and show it without secrets (`masked`).
"""

from gateway.config.loader import load
from gateway.config.problems import ConfigurationError, Problem

__all__ = ["ConfigurationError", "Problem", "load"]
