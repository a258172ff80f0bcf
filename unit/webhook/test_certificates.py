from __future__ import annotations

import datetime
import ssl

import pytest
from cryptography import x509

from dynvol.webhook.certificates import (
    LIFETIME,
    MOST_AUTHORITIES,
    RENEW_BEFORE,
    Certificate,
    Unusable,
    authorities_in,
    issue,
    server_context,
    take_up,
)

HOST = "dynvol-webhook.dynvol-system.svc"
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def handshake(context: ssl.SSLContext, bundle: bytes, *, host: str = HOST) -> str:
    """The serial number of the certificate that a client which trusts `bundle` alone accepts. Raises SSLError."""
    client_context = ssl.create_default_context(cadata=bundle.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    der = client.getpeercert(binary_form=True)
    assert der is not None
    return f"{x509.load_der_x509_certificate(der).serial_number:x}"


def test_it_is_accepted_by_who_trusts_its_bundle_alone() -> None:
    context, certificate = server_context(), issue([HOST], now=NOW)
    take_up(context, certificate)
    assert handshake(context, certificate.authorities)


def test_it_is_not_accepted_under_another_name() -> None:
    context, certificate = server_context(), issue([HOST], now=NOW)
    take_up(context, certificate)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, certificate.authorities, host="example.com")


def test_no_two_have_an_authority_in_common() -> None:
    assert not authorities_in(issue([HOST], now=NOW).authorities) & authorities_in(issue([HOST], now=NOW).authorities)


def test_the_next_ones_bundle_still_trusts_the_last_one() -> None:
    context, old = server_context(), issue([HOST], now=NOW)
    new = issue([HOST], now=NOW, before=old.authorities)
    take_up(context, old)
    assert handshake(context, new.authorities)


def test_a_bundle_does_not_grow_for_ever() -> None:
    certificate = issue([HOST], now=NOW)
    for _ in range(10):
        certificate = issue([HOST], now=NOW, before=certificate.authorities)
    assert len(authorities_in(certificate.authorities)) == MOST_AUTHORITIES


def test_authorities_that_have_ended_are_dropped() -> None:
    old = issue([HOST], now=NOW - LIFETIME - DAY)
    new = issue([HOST], now=NOW, before=old.authorities)
    assert not authorities_in(old.authorities) & authorities_in(new.authorities)


def test_it_is_due_well_before_its_end() -> None:
    certificate = issue([HOST], now=NOW)
    assert not certificate.due(now=NOW)
    assert not certificate.due(now=NOW + LIFETIME - RENEW_BEFORE - DAY)
    assert certificate.due(now=NOW + LIFETIME - RENEW_BEFORE)


def test_it_is_due_where_the_clock_was_wrong_when_it_was_made() -> None:
    assert issue([HOST], now=NOW + 2 * DAY).due(now=NOW)


def test_it_serves_the_names_that_it_was_made_for() -> None:
    certificate = issue([HOST, "127.0.0.1"], now=NOW)
    assert certificate.serves([HOST])
    assert certificate.serves(["127.0.0.1", HOST])
    assert not certificate.serves(["other.svc"])


def test_its_key_does_not_show_in_its_repr() -> None:
    certificate = issue([HOST], now=NOW)
    assert certificate.key.splitlines()[1].decode() not in repr(certificate)
    assert "PRIVATE" not in repr(certificate)


@pytest.mark.parametrize("field", ["chain", "key", "authorities"])
def test_garbage_leaves_a_live_context_as_it_was(field: str) -> None:
    context, good = server_context(), issue([HOST], now=NOW)
    take_up(context, good)
    parts = {"chain": good.chain, "key": good.key, "authorities": good.authorities, field: b"garbage"}
    with pytest.raises(Unusable):
        take_up(context, Certificate(**parts))
    assert handshake(context, good.authorities)


def test_a_key_of_another_certificate_leaves_a_live_context_as_it_was() -> None:
    context, good, other = server_context(), issue([HOST], now=NOW), issue([HOST], now=NOW)
    take_up(context, good)
    with pytest.raises(Unusable):
        take_up(context, Certificate(other.chain, good.key, good.authorities))
    assert handshake(context, good.authorities)


def test_a_live_context_takes_up_the_next_one() -> None:
    context, old = server_context(), issue([HOST], now=NOW)
    new = issue([HOST], now=NOW, before=old.authorities)
    take_up(context, old)
    first = handshake(context, new.authorities)
    take_up(context, new)
    assert handshake(context, new.authorities) != first
