"""A certificate authority for one test, and a server certificate of it for 127.0.0.1."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """Files in PEM: `ca`, and the server's `certificate` and `key`."""

    def __init__(self, directory: Path, *, host: str = "127.0.0.1") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.ca, self.certificate, self.key = (directory / name for name in ("ca.crt", "server.crt", "server.key"))
        ca_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        authority = _name("test authority")
        root = _builder(authority, authority, ca_key.public_key()).add_extension(x509.BasicConstraints(True, None), critical=True)
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        self.ca.write_bytes(_pem(root.add_extension(usage, critical=True).sign(ca_key, hashes.SHA256())))
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
        server = _builder(_name("server"), authority, server_key.public_key()).add_extension(address, critical=False)
        self.certificate.write_bytes(_pem(server.sign(ca_key, hashes.SHA256())))
        plain = serialization.NoEncryption()
        pkcs8 = serialization.PrivateFormat.PKCS8
        self.key.write_bytes(server_key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
