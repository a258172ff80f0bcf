"""The webhook's certificate: what is in it, when it is due, and how a running server takes it up.

Each certificate has an authority of its own, whose key is forgotten as soon as it has signed: there is nothing left by which
another could be made, and renewal is a new authority. The bundle that the API server trusts holds the new authority and those
before it that have not ended, so a replica that still serves the last certificate is believed.

Nothing here talks to anyone; `renewal` does.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME: Final = datetime.timedelta(days=90)
RENEW_BEFORE: Final = datetime.timedelta(days=30)
"""A month in which someone notices that renewal fails."""
SKEW: Final = datetime.timedelta(hours=1)
"""How far an API server's clock may be behind ours."""
MOST_AUTHORITIES: Final = 4
"""In a bundle: the one in use, the one before, and two more for whoever renews by hand."""


class Unusable(ValueError):
    """The stored certificate cannot be served. The message says why and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A serving certificate with its key, and the authorities to trust. All PEM."""

    chain: bytes
    key: bytes
    authorities: bytes

    def __repr__(self) -> str:
        return f"Certificate(serial={self._leaf.serial_number:x}, ends={self.ends:%Y-%m-%d})"

    @property
    def _leaf(self) -> x509.Certificate:
        return x509.load_pem_x509_certificates(self.chain)[0]

    @property
    def ends(self) -> datetime.datetime:
        return self._leaf.not_valid_after_utc

    def due(self, *, now: datetime.datetime) -> bool:
        """Whether it is time for the next."""
        return now >= self.ends - RENEW_BEFORE or now < self._leaf.not_valid_before_utc

    def serves(self, hosts: Sequence[str]) -> bool:
        """Whether it is good for every one of `hosts`."""
        names = self._leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        present = {str(name.value) for name in names}
        return present.issuperset(hosts)

    def check(self) -> None:
        """Raises `Unusable` unless key and certificate belong together and are read by the TLS library."""
        try:
            _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self)
            x509.load_pem_x509_certificates(self.authorities)
            _ = self._leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (ssl.SSLError, ValueError, x509.ExtensionNotFound) as error:
            raise Unusable(f"the stored certificate cannot be used: {error}") from error


def issue(hosts: Sequence[str], *, now: datetime.datetime, before: bytes = b"") -> Certificate:
    """A certificate for `hosts` (DNS names or addresses), trusted beside the authorities `before` that have not ended."""
    begins, ends = now - SKEW, now + LIFETIME
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"dynvol webhook authority {now:%Y-%m-%d %H:%M:%S}")])
    authority = (
        _builder(subject, subject, authority_key.public_key(), begins, ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    leaf = (
        _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dynvol webhook")]), subject, key.public_key(), begins, ends)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return Certificate(
        chain=leaf.public_bytes(Encoding.PEM),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        authorities=merged(authority.public_bytes(Encoding.PEM), before, now=now),
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begins: datetime.datetime, ends: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def merged(authorities: bytes, present: bytes, *, now: datetime.datetime) -> bytes:
    """A bundle of `authorities` and then those of `present` that have not ended, as many as `MOST_AUTHORITIES` allow.

    What is present and no certificate counts as nothing.
    """
    wanted = x509.load_pem_x509_certificates(authorities)
    others = [c for c in _readable(present) if c.not_valid_after_utc > now and c not in wanted]
    kept = [*wanted, *others][: max(MOST_AUTHORITIES, len(wanted))]
    return b"".join(c.public_bytes(Encoding.PEM) for c in kept)


def authorities_in(bundle: bytes) -> frozenset[bytes]:
    """The fingerprints of a bundle's certificates; none if it is no bundle."""
    return frozenset(c.fingerprint(hashes.SHA256()) for c in _readable(bundle))


def _readable(bundle: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return []


def server_context() -> ssl.SSLContext:
    """A context without a certificate yet; `take_up` gives it one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def take_up(context: ssl.SSLContext, certificate: Certificate) -> None:
    """Makes new handshakes of a live context use `certificate`. Raises `Unusable`, and then the context is as it was.

    OpenSSL would leave a context with a key that does not fit its certificate broken, so a scratch context goes first.
    """
    certificate.check()
    _load(context, certificate)


def _load(context: ssl.SSLContext, certificate: Certificate) -> None:
    """The ssl module reads files only; this one is in memory and has no name, so the key is never in a file system."""
    fd = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(fd, certificate.chain + certificate.key)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
