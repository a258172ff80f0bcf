"""The Secrets of classes and claims, and what of them reaches a mount pod's copy, as long as it is of use and no longer."""

from __future__ import annotations

import asyncio
from pathlib import PurePosixPath

import msgspec
import pytest

from dynvol.api import names
from dynvol.api.claim import PodMount
from dynvol.api.mounts import Phase, encode, own_secret_prefix
from dynvol.api.resources import CLASSES, PODS, SECRETS
from dynvol.controllers import copies, credentials, externalvolume, providerclass
from dynvol.controllers.view import reported, told
from dynvol.mount.caches import Leftover

from .node_played import STATE
from .world import Process, World

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(autouse=True)
def looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets are not watched, so that time has to pass."""
    monkeypatch.setattr(credentials, "FRESH", 0.0)
    monkeypatch.setattr(credentials, "DOUBTFUL", 0.0)
    monkeypatch.setattr(externalvolume, "CREDENTIALS_CHECK", 0.2)
    monkeypatch.setattr(externalvolume, "PROBLEM_RETRY", 0.2)


def entry(world: World, claim: str) -> PodMount | None:
    return world.entries(claim).get("web")


def key_of(secret: str, key: str = names.ACCESS_KEY) -> str:
    return own_secret_prefix(secret) + key


async def test_a_claim_waits_for_its_own_secret_and_hinders_no_other(world: World) -> None:
    await world.add_class(allowed_claim_secrets="*")
    async with world.process():
        await world.add_pod()
        await world.add_claim("plain")
        await world.add_claim("own", secret="mine")
        await world.until(lambda: world.is_mounted(claim="plain"))
        await world.until(lambda: (e := entry(world, "own")) and (e.phase, e.reason) == (Phase.FAILED, "SecretNotFound"))
        assert world.wanted().keys() == {"plain"}
        await world.add_secret("m", name="mine")
        await world.until(lambda: world.is_mounted(claim="own"))
        await world.until(lambda: world.copied().get(key_of("mine")) == "m")
        assert world.copied()[names.ACCESS_KEY] == "k"


def reads(process: Process) -> int:
    return sum(read.endswith("/secrets/keys") for read in process.wire.reads)


async def reads_while(world: World, process: Process, leader: Process) -> int:
    """How often `process` reads the class's Secret, while `leader` looks at it some more times."""
    before, looked = reads(process), reads(leader)
    await world.until(lambda: reads(leader) > looked + 4)
    return reads(process) - before


async def test_the_secret_of_a_class_is_looked_at_by_the_leader_and_read_by_others_once_it_changed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providerclass, "CREDENTIALS_CHECK", 0.1)
    await world.add_node(other := f"other-{world.name}")
    await world.add_class()
    async with world.process(node=other) as leader, world.process(lead=False) as process:
        await world.add_pod()
        await world.add_claim()
        await world.until(lambda: world.is_mounted())
        await reads_while(world, process, leader)
        assert await reads_while(world, process, leader) == 0
        await world.admin.merge_patch(SECRETS, "keys", {"stringData": {names.ACCESS_KEY: "new"}}, namespace=world.namespace)
        await world.until(lambda: world.copied()[names.ACCESS_KEY] == "new")
        await reads_while(world, process, leader)
        assert await reads_while(world, process, leader) == 0


@pytest.mark.parametrize("sign", ["its container ended", "it does not mount with the keys that it has"])
async def test_a_copy_that_is_removed_is_made_again_when_its_mount_pod_does_not_do_well(
    world: World, monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    monkeypatch.setattr(copies, "REWRITE", 0.0)
    await world.add_class()
    async with world.process():
        await world.add_pod()
        await world.add_claim()
        await world.until(lambda: world.is_mounted())
        mount_pod = world.mount_pod()
        assert mount_pod is not None
        await world.admin.delete(SECRETS, mount_pod.metadata.name, namespace=world.driver)
        world.mounters.deaf = True
        if sign == "its container ended":
            await world.mounters.say(mount_pod, {"containerStatuses": []})
        else:
            pending = [msgspec.structs.replace(report, reason="CredentialsPending") for report in reported(mount_pod)]
            body = {"metadata": {"annotations": {names.REPORT_ANNOTATION: encode(pending)}}}
            await world.admin.merge_patch(PODS, mount_pod.metadata.name, body, namespace=world.driver)
        await world.until(lambda: world.copied().get(names.ACCESS_KEY) == "k")


async def test_workloads_that_ask_at_once_share_one_reading(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "FRESH", 60.0)
    await world.add_class()
    provider_class = await world.admin.get(CLASSES, world.provider_class)
    async with world.process(lead=False) as process:
        asked = credentials.Credentials(process.client)
        one, *others = await asyncio.gather(*(asked.of(provider_class) for _ in range(8)))
        assert one.secret is not None and all(other is one for other in others)
        assert [read.rpartition("/")[2] for read in process.wire.reads if "/secrets/" in read] == ["keys"]


async def test_a_class_without_a_secret_serves_claims_with_and_without_one(world: World) -> None:
    await world.add_class(named=False, allowed_claim_secrets="mine")
    await world.add_secret("m", name="mine")
    async with world.process():
        await world.add_pod()
        await world.add_claim("own", secret="mine")
        await world.add_claim("public")
        await world.until(lambda: world.is_mounted(claim="own") and world.is_mounted(claim="public"))
        await world.until(lambda: world.copied() == {key_of("mine"): "m", key_of("mine", names.SECRET_KEY): "s"})


async def test_a_secret_that_a_class_does_not_allow_is_not_read(world: World) -> None:
    await world.add_class()
    await world.add_secret("m", name="mine")
    async with world.process() as process:
        await world.add_pod()
        await world.add_claim("own", secret="mine")
        await world.until(lambda: (e := entry(world, "own")) and e.reason == names.NOT_ALLOWED)
        assert not [read for read in process.wire.reads if read.endswith("/secrets/mine")]
        parameters = {names.CLAIM_SECRETS_PARAMETER: "*"}
        await world.admin.merge_patch(CLASSES, world.provider_class, {"spec": {"parameters": parameters}})
        await world.until(lambda: world.is_mounted(claim="own"))
        await world.admin.merge_patch(
            CLASSES, world.provider_class, {"spec": {"parameters": {names.CLAIM_SECRETS_PARAMETER: None}}}
        )
        await world.until(lambda: (e := entry(world, "own")) and e.reason == names.NOT_ALLOWED)
        await world.until(lambda: key_of("mine") not in world.copied() and not world.table.mounts)


async def test_what_is_changed_in_a_secret_reaches_the_copy_and_what_goes_leaves_it(world: World) -> None:
    """A mount that runs goes on without its Secret, which must not stay somewhere for that."""
    await world.add_class(allowed_claim_secrets="*")
    for name in ("mine", "theirs"):
        await world.add_secret(name, name=name)
    async with world.process():
        await world.add_pod()
        await world.add_claim("a", secret="mine")
        await world.add_claim("b", secret="theirs")
        await world.until(lambda: world.is_mounted(claim="a") and world.is_mounted(claim="b"))
        await world.until(lambda: {key_of("mine"), key_of("theirs")} <= world.copied().keys())
        await world.admin.merge_patch(SECRETS, "mine", {"stringData": {names.ACCESS_KEY: "new"}}, namespace=world.namespace)
        await world.until(lambda: world.copied().get(key_of("mine")) == "new")

        await world.drop_secret("mine")
        await world.until(lambda: key_of("mine") not in world.copied())
        assert world.copied()[key_of("theirs")] == "theirs"
        assert world.wanted().keys() == {"a", "b"}
        assert world.is_mounted(claim="a")

        await world.delete_claim("b")
        await world.until(lambda: key_of("theirs") not in world.copied())
        await world.delete_claim("a")
        await world.until(lambda: world.mount_pod() is None)


async def test_a_secret_that_is_larger_than_a_copy_takes_keeps_no_other_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_MOST", 100)
    await world.add_class(allowed_claim_secrets="*")
    await world.add_secret("x" * 1000, name="large")
    await world.add_secret("m", name="mine")
    async with world.process():
        await world.add_pod()
        await world.add_claim("a", secret="large")
        await world.add_claim("b", secret="mine")
        await world.until(lambda: (e := entry(world, "a")) and e.reason == "SecretTooLarge")
        await world.until(lambda: world.is_mounted(claim="b"))
        await world.until(lambda: key_of("large") not in world.copied() and key_of("mine") in world.copied())


async def test_data_that_is_not_uploaded_keeps_its_claims_secret_in_the_copy(world: World) -> None:
    await world.add_class(allowed_claim_secrets="*")
    await world.add_secret("m", name="mine")
    async with world.process():
        pod = await world.add_pod()
        await world.add_claim("a", secret="mine")
        await world.add_claim("other")
        await world.until(lambda: world.is_mounted(claim="a") and world.is_mounted(claim="other"))
        waiting = next(mount for mount in told(world.mount_pod()) if mount.credentials)
        cache = PurePosixPath(str(world.workload(pod).cache(STATE)))
        world.mounters.offline = True
        world.table.left[cache] = (Leftover(waiting, 1),)
        await world.delete_claim("a")
        await world.until(lambda: world.phase(claim="a") == Phase.UNMOUNTING)
        await world.admin.merge_patch(SECRETS, "mine", {"stringData": {names.ACCESS_KEY: "new"}}, namespace=world.namespace)
        await world.until(lambda: world.copied().get(key_of("mine")) == "new")
        world.mounters.offline = False
        world.mounters.poke()
        await world.until(lambda: world.claim("a") is None)
        await world.until(lambda: key_of("mine") not in world.copied())
