"""A reverse proxy that asks IAM once before it forwards, and has a defined answer for when IAM cannot answer."""

__version__ = "0.2.0"
