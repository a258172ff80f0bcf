"""Replicas that share one Secret. The clock of certificates is the test's; waiting is virtual."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from dynvol.webhook.certificates import LIFETIME, RENEW_BEFORE, Certificate, authorities_in, issue
from dynvol.webhook.renewal import POLL, CertificateKeeper, Stored

from .replicas import Clock, SharedSecretInMemory, TrustInMemory

pytestmark = pytest.mark.looptime

HOST = "dynvol-webhook.dynvol-system.svc"
UNTIL_DUE = (LIFETIME - RENEW_BEFORE).days


class Unavailable(Exception):
    pass


class World:
    def __init__(self) -> None:
        self.secret, self.trust, self.clock = SharedSecretInMemory(), TrustInMemory(), Clock()

    def replica(self) -> CertificateKeeper:
        return CertificateKeeper(self.secret, self.trust, hosts=[HOST], unavailable=(Unavailable,), now=self.clock)

    def believes(self, certificate: Certificate | None) -> bool:
        """Whether the API server accepts a replica that serves this one. Its authority is the first of its bundle."""
        return certificate is not None and _own(certificate) in authorities_in(self.trust.bundle)


def _own(certificate: Certificate) -> bytes:
    first = certificate.authorities.split(b"-----END CERTIFICATE-----")[0] + b"-----END CERTIFICATE-----\n"
    (fingerprint,) = authorities_in(first)
    return fingerprint


async def running(keeper: CertificateKeeper, *, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await keeper.run()


@pytest.fixture
def world() -> World:
    return World()


async def test_the_first_replica_makes_the_certificate_and_the_api_server_trusts_it(world: World) -> None:
    keeper = world.replica()
    await keeper.prepare()
    assert world.believes(keeper.served)


async def test_of_replicas_that_start_at_once_one_makes_it_and_all_serve_it(world: World) -> None:
    keepers = [world.replica() for _ in range(5)]
    await asyncio.gather(*(k.prepare() for k in keepers))
    assert world.secret.writes == 1
    assert {k.served for k in keepers} == {keepers[0].served}


async def test_a_replica_that_comes_later_changes_nothing(world: World) -> None:
    await world.replica().prepare()
    told = len(world.trust.history)
    await world.replica().prepare()
    assert (world.secret.writes, len(world.trust.history)) == (1, told)


async def test_it_serves_before_there_are_configurations_to_tell(world: World) -> None:
    world.trust.exists = False
    keeper = world.replica()
    await keeper.prepare()
    assert keeper.served
    world.trust.exists = True
    await running(keeper, seconds=5)
    assert world.believes(keeper.served)


async def test_it_is_renewed_once_when_due_and_every_replica_takes_it_up(world: World) -> None:
    keepers = [world.replica(), world.replica()]
    await asyncio.gather(*(k.prepare() for k in keepers))
    first = keepers[0].served
    world.clock.pass_days(UNTIL_DUE + 1)
    await asyncio.gather(*(running(k, seconds=3 * POLL) for k in keepers))
    assert world.secret.writes == 2
    assert keepers[0].served == keepers[1].served != first


async def test_at_no_moment_of_a_renewal_is_a_served_certificate_not_believed(world: World) -> None:
    keepers = [world.replica(), world.replica()]
    await asyncio.gather(*(k.prepare() for k in keepers))
    world.clock.pass_days(UNTIL_DUE + 1)

    async def observe() -> None:
        while True:
            assert all(world.believes(k.served) for k in keepers)
            await asyncio.sleep(0.5)

    observer = asyncio.create_task(observe(), name="observer")
    await asyncio.gather(*(running(k, seconds=4 * POLL) for k in keepers))
    assert not observer.done(), observer.exception()
    observer.cancel()


async def test_a_new_authority_is_known_for_a_while_before_its_certificate_is_served(world: World) -> None:
    keeper = world.replica()
    await keeper.prepare()
    first = keeper.served
    world.clock.pass_days(UNTIL_DUE + 1)
    step = asyncio.create_task(keeper.step(), name="step")
    await asyncio.sleep(5)
    assert len(authorities_in(world.trust.bundle)) == 2
    assert keeper.served == first
    await step
    assert keeper.served != first


async def test_a_deleted_secret_is_made_anew_with_what_is_served_still_trusted(world: World) -> None:
    keeper, other = world.replica(), world.replica()
    await asyncio.gather(keeper.prepare(), other.prepare())
    world.secret.stored = None
    await running(keeper, seconds=2 * POLL)
    assert world.believes(keeper.served)
    assert world.believes(other.served)


async def test_a_replica_that_starts_without_a_secret_does_not_disown_those_that_serve(world: World) -> None:
    older, newcomer = world.replica(), world.replica()
    await older.prepare()
    world.secret.stored = None
    await newcomer.prepare()
    assert world.believes(older.served)
    assert world.believes(newcomer.served)


async def test_a_bundle_that_was_reset_is_mended(world: World) -> None:
    keeper = world.replica()
    await keeper.prepare()
    world.trust.bundle = b""
    await running(keeper, seconds=2 * POLL)
    assert world.believes(keeper.served)


@pytest.mark.parametrize("damage", ["nothing", "garbage", "mismatch"])
async def test_a_damaged_secret_is_replaced(world: World, damage: str) -> None:
    one, two = (issue([HOST], now=world.clock()) for _ in range(2))
    damaged = {
        "nothing": None,
        "garbage": Certificate(b"x", b"y", b"z"),
        "mismatch": Certificate(one.chain, two.key, one.authorities),
    }[damage]
    world.secret.stored = Stored(damaged, version="0")
    keeper = world.replica()
    await keeper.prepare()
    assert world.believes(keeper.served)


async def test_a_certificate_for_another_service_name_is_replaced(world: World) -> None:
    world.secret.stored = Stored(issue(["old.svc"], now=world.clock()), version="0")
    keeper = world.replica()
    await keeper.prepare()
    assert keeper.served is not None
    assert keeper.served.serves([HOST])


async def test_a_certificate_that_others_manage_is_served_and_never_replaced(world: World) -> None:
    theirs = issue([HOST], now=world.clock())
    world.secret.stored = Stored(theirs, version="0", managed=False)
    keeper = world.replica()
    await keeper.prepare()
    world.clock.pass_days(UNTIL_DUE + 1)
    await running(keeper, seconds=2 * POLL)
    assert keeper.served == theirs
    assert world.secret.writes == 0
    assert world.believes(theirs)


async def test_it_goes_on_while_the_api_server_is_away_and_catches_up_after(world: World) -> None:
    keeper = world.replica()
    await keeper.prepare()
    first, read = keeper.served, world.secret.read
    world.clock.pass_days(UNTIL_DUE + 1)

    async def away() -> Stored | None:
        raise Unavailable("connection refused")

    world.secret.read = away  # type: ignore[method-assign]
    await running(keeper, seconds=2 * POLL)
    assert keeper.served == first
    world.secret.read = read  # type: ignore[method-assign]
    await running(keeper, seconds=2 * POLL)
    assert keeper.served != first
