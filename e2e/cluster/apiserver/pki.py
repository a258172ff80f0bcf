"""The cluster's keys and certificates, and the kubeconfigs that carry them.

Everything lies in the state folder: `pki/ca.crt|key`, `pki/apiserver.crt|key`, `pki/admin.crt|key`, `pki/sa.key|pub` and
`admin.kubeconfig`. Nothing is rotated: such a cluster lives for hours. `ensure` and `kubeconfig` can be repeated.

    python -m e2e.cluster.apiserver.pki DIR --user system:node:n1 --group system:nodes
"""

from __future__ import annotations

import argparse
import base64
import datetime
import ipaddress
import json
import os
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=365)
SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
SERVER_ADDRESSES = ("127.0.0.1", "::1", "10.96.0.1")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as files in PEM."""

    certificate: Path
    key: Path

    def exists(self) -> bool:
        return self.certificate.exists() and self.key.exists()


@dataclass(frozen=True, slots=True)
class Files:
    """Where things are in a state folder."""

    state: Path

    @property
    def ca(self) -> Pair:
        return self.pair("ca")

    @property
    def server(self) -> Pair:
        return self.pair("apiserver")

    @property
    def admin(self) -> Pair:
        return self.pair("admin")

    @property
    def signing_key(self) -> Path:
        return self.state / "pki" / "sa.key"

    @property
    def verifying_key(self) -> Path:
        return self.state / "pki" / "sa.pub"

    @property
    def admin_kubeconfig(self) -> Path:
        return self.state / "admin.kubeconfig"

    @property
    def database(self) -> Path:
        return self.state / "apiserver.db"

    def pair(self, name: str) -> Pair:
        return Pair(self.state / "pki" / f"{name}.crt", self.state / "pki" / f"{name}.key")


def ensure(state: Path, *, server: str = "https://127.0.0.1:6443") -> Files:
    """Make what is missing: CA, server and admin certificates, the service-account key, `admin.kubeconfig`."""
    files = Files(state)
    files.ca.key.parent.mkdir(parents=True, exist_ok=True)
    if not files.ca.exists():
        _make_authority(files.ca)
    if not files.server.exists():
        sign_server(state, "apiserver", names=(*SERVER_NAMES, socket.gethostname()), addresses=SERVER_ADDRESSES)
    if not files.verifying_key.exists():
        _make_signing_key(files)
    kubeconfig(state, user="kubernetes-admin", groups=["system:masters"], server=server, name="admin")
    return files


def kubeconfig(
    state: Path,
    *,
    user: str,
    groups: Sequence[str] = (),
    server: str | None = None,
    name: str | None = None,
) -> Path:
    """A kubeconfig whose client certificate says `user` and `groups`; `server` defaults to the admin kubeconfig's."""
    files = Files(state)
    name = name or re.sub(r"[^a-z0-9.-]+", "-", user.lower())
    pair = sign_client(state, name, user=user, groups=groups)
    path = state / f"{name}.kubeconfig"
    address = server or json.loads(files.admin_kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "local",
        "clusters": [
            {"name": "local", "cluster": {"server": address, "certificate-authority-data": _base64(files.ca.certificate)}}
        ],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": user}}],
        "users": [
            {
                "name": user,
                "user": {"client-certificate-data": _base64(pair.certificate), "client-key-data": _base64(pair.key)},
            }
        ],
    }
    _write_private(path, json.dumps(content, indent=1).encode())
    return path


def sign_client(state: Path, name: str, *, user: str, groups: Sequence[str] = ()) -> Pair:
    """A client certificate in `pki/<name>.crt`; an existing one is kept."""
    pair = Files(state).pair(name)
    if not pair.exists():
        organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, user)])
        _issue(state, pair, subject, usage=ExtendedKeyUsageOID.CLIENT_AUTH, alternatives=[])
    return pair


def sign_server(state: Path, name: str, *, names: Iterable[str] = (), addresses: Iterable[str] = ()) -> Pair:
    """A serving certificate in `pki/<name>.crt`; an existing one is kept."""
    pair = Files(state).pair(name)
    if not pair.exists():
        alternatives = [x509.DNSName(dns) for dns in dict.fromkeys(names)]
        numeric = [x509.IPAddress(ipaddress.ip_address(address)) for address in dict.fromkeys(addresses)]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        _issue(state, pair, subject, usage=ExtendedKeyUsageOID.SERVER_AUTH, alternatives=[*alternatives, *numeric])
    return pair


def _make_authority(pair: Pair) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "local-cluster-ca")])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    _write_pair(pair, builder.sign(key, hashes.SHA256()), key)


def _issue(
    state: Path,
    pair: Pair,
    subject: x509.Name,
    *,
    usage: x509.ObjectIdentifier,
    alternatives: Sequence[x509.GeneralName],
) -> None:
    files = Files(state)
    authority = x509.load_pem_x509_certificate(files.ca.certificate.read_bytes())
    authority_key = serialization.load_pem_private_key(files.ca.key.read_bytes(), password=None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    authority_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(subject, authority.subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id), critical=False)
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    _write_pair(pair, builder.sign(authority_key, hashes.SHA256()), key)


def _builder(subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
    )


def _make_signing_key(files: Files) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    _write_private(files.signing_key, _private_pem(key))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    files.verifying_key.write_bytes(public)


def _write_pair(pair: Pair, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    _write_private(pair.key, _private_pem(key))
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write_private(path: Path, content: bytes) -> None:
    """Replace the file in one step, readable by its owner only: another process may be reading it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_bytes(content)
    draft.replace(path)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make the cluster's certificates, and a kubeconfig for a user.")
    parser.add_argument("state", type=Path)
    parser.add_argument("--server", default="https://127.0.0.1:6443")
    parser.add_argument("--user")
    parser.add_argument("--group", action="append", default=[])
    options = parser.parse_args(argv)
    files = ensure(options.state, server=options.server)
    made = kubeconfig(options.state, user=options.user, groups=options.group) if options.user else files.admin_kubeconfig
    print(made)


if __name__ == "__main__":
    main()
