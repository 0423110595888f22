"""`routes.yaml` and `policies/` → one frozen `Configuration`, or every mistake in them at once.

    read YAML with places → fill in variables → validate the keys → compile → look across sections

`load` is the only way in. Its neighbours say what a configuration means (`matrix.failure_matrix`), what a change
weakens (`weakened`) or else does (`differences`), and show it without secrets (`masked`).
"""

from gateway.config.changes import differences, weakened
from gateway.config.loader import load
from gateway.config.masking import masked
from gateway.config.problems import ConfigurationError, Problem
from gateway.config.values import format_duration, parse_duration

__all__ = [
    "ConfigurationError",
    "Problem",
    "differences",
    "format_duration",
    "load",
    "masked",
    "parse_duration",
    "weakened",
]
