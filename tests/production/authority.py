"""A certificate authority for an afternoon."""

from __future__ import annotations

import datetime as dt
import ipaddress
import itertools
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_SERIALS = itertools.count(1000)
_PEM = serialization.Encoding.PEM


@dataclass
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path
    serial: int


@dataclass
class Authority:
    """Signs certificates for 127.0.0.1. `file`: what to trust."""

    folder: Path
    name: str = "authority"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.file = self.folder / f"{self.name}.pem"
        self._subject = _name(self.name)
        basics = x509.BasicConstraints(ca=True, path_length=0)
        self.file.write_bytes(self._sign(self._subject, self.key.public_key(), basics).public_bytes(_PEM))

    def issue(self, name: str, *, into: Path | None = None) -> Pair:
        """A new key and certificate, written to NAME.crt and NAME.key."""
        key = ec.generate_private_key(ec.SECP256R1())
        signed = self._sign(_name(name), key.public_key(), x509.BasicConstraints(ca=False, path_length=None))
        folder = into or self.folder
        pair = Pair(folder / f"{name}.crt", folder / f"{name}.key", signed.serial_number)
        pair.cert.write_bytes(signed.public_bytes(_PEM))
        pair.key.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return pair

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, basics: x509.BasicConstraints
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key)
            .serial_number(next(_SERIALS))
            .not_valid_before(now - dt.timedelta(minutes=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(basics, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
