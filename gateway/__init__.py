"""A reverse proxy that asks IAM once before it forwards, and has a defined answer for when IAM cannot answer."""

from importlib.util import find_spec

__version__ = "0.2.0"


def build() -> str:
    """The version, and whether the hot rooms are compiled (hatch_build.py)."""
    return f"{__version__} (compiled)" if find_spec("gateway_compiled__mypyc") else __version__
