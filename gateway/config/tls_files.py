"""Whether TLS files are what they are named for: found out at load, not at the first connection."""

from __future__ import annotations

import ssl
from pathlib import Path

from gateway.config.problems import Mark, Problems


def check_pair(mark: Mark, cert_file: Path | None, key_file: Path | None, problems: Problems) -> None:
    """Notes a certificate and key that can't be used together. Files that could not be read were noted before."""
    if cert_file is None or key_file is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file, password=str)
    except (ssl.SSLError, OSError, ValueError):
        message = "cert_file and key_file are not a PEM certificate and its key (without a passphrase)"
        problems.error(mark, "bad-certificate", message)


def check_authorities(mark: Mark, file: Path | None, problems: Problems) -> None:
    """Notes a file of authorities that holds no certificate."""
    if file is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except (ssl.SSLError, OSError, ValueError):
        problems.error(mark, "bad-certificate", f"{file.name} holds no PEM certificates")
