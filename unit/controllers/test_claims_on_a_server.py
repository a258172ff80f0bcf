"""From a claim to a mount and back, by way of an API server."""

from __future__ import annotations

import asyncio
from pathlib import PurePosixPath

import pytest

from dynvol.api import names
from dynvol.api.claim import DynamicVolumeClaim
from dynvol.api.core import Pod
from dynvol.api.mounts import Phase
from dynvol.api.resources import CLAIMS, CLASSES, PODS
from dynvol.controllers import claimstatus, externalvolume, room
from dynvol.controllers.view import told
from dynvol.runtime.store import Change

from .world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def mounted(world: World) -> Pod:
    """A pod with a claim's mount, made while a process runs."""
    await world.add_class()
    pod = await world.add_pod()
    await world.add_claim()
    await world.until(world.is_mounted)
    return pod


async def test_a_claim_is_mounted_and_ready_and_goes_without_a_trace(world: World) -> None:
    async with world.process():
        pod = await mounted(world)
        await world.until(lambda: world.condition("Ready").status == "True")
        claim = world.claim()
        assert claim is not None and claim.status.summary == "1/1"
        assert world.entries()["web"].path == "/root/data"
        await world.delete_claim()
        await world.until(lambda: world.claim() is None)
        assert not world.table.mounts
        await world.end_pod(pod)
        await world.until(world.is_empty)


async def test_a_claim_holds_finalizer_and_entry_before_there_is_a_mount_pod(world: World) -> None:
    first: dict[str, int] = {}

    def see(change: Change[DynamicVolumeClaim] | Change[Pod]) -> None:
        match change.new:
            case DynamicVolumeClaim(metadata=meta, status=status):
                if names.CLAIM_FINALIZER in meta.finalizers:
                    first.setdefault("finalizer", int(meta.resource_version))
                if status.pods:
                    first.setdefault("entry", int(meta.resource_version))
            case Pod(metadata=meta):
                first.setdefault("mount pod", int(meta.resource_version))

    world.claims.add_handler(see)
    world.mount_pods.add_handler(see)
    async with world.process():
        await mounted(world)
    assert max(first["finalizer"], first["entry"]) < first["mount pod"]


async def test_the_secret_copy_is_its_mount_pods_own(world: World) -> None:
    async with world.process():
        await mounted(world)
        mount_pod = world.mount_pod()
        assert mount_pod is not None
        copy = await world.until(lambda: world.secrets.store.get(mount_pod.metadata.key))
        assert [o.uid for o in copy.metadata.owner_references] == [mount_pod.metadata.uid]
        assert copy.data == {names.ACCESS_KEY: b"k", names.SECRET_KEY: b"s"}


async def test_what_a_mount_pod_is_told_follows_claims_labels_and_classes(world: World) -> None:
    async with world.process():
        await mounted(world)
        await world.add_claim("more")
        await world.until(lambda: world.wanted() == {"data": "data", "more": "more"} and world.is_mounted(claim="more"))
        await world.edit("more", mountpoint="/elsewhere")
        await world.until(lambda: world.wanted()["more"] == "elsewhere" and world.is_mounted(claim="more"))
        hashes = {w.spec_hash for w in told(world.mount_pod())}
        options = {"spec": {"parameters": {names.OPTIONS_PARAMETER: "use_cache=/tmp"}}}
        await world.admin.merge_patch(CLASSES, world.provider_class, options)
        await world.until(lambda: not hashes & {w.spec_hash for w in told(world.mount_pod())})
        await world.admin.merge_patch(PODS, "web", {"metadata": {"labels": {"app": "other"}}}, namespace=world.namespace)
        await world.until(lambda: world.mount_pod() is None and not world.entries() and not world.entries("more"))
        assert world.condition("Ready").reason in ("NoMatchingPods", "Mounted", "Progressing")
        await world.until(lambda: world.condition("Ready").reason == "NoMatchingPods")


async def test_an_entry_stays_until_report_and_mount_table_are_clean(world: World) -> None:
    async with world.process():
        await mounted(world)
        await world.add_claim("other")
        await world.until(lambda: world.is_mounted(claim="other"))
        world.mounters.flushing = True
        await world.delete_claim()
        await world.until(lambda: world.phase() == Phase.UNMOUNTING and "data" not in world.wanted())
        assert world.condition("Ready", "other").status == "True"
        world.mounters.flushing = False
        world.mounters.poke()
        await world.until(lambda: world.claim() is None)
        assert len(world.table.mounts) == 1


async def test_the_younger_of_two_claims_for_a_path_names_the_older_and_follows_it(world: World) -> None:
    async with world.process():
        await mounted(world)
        await world.add_claim("younger", mountpoint="/data/below")
        await world.until(lambda: world.condition("Ready", "younger").reason == "MountpointConflict")
        assert "data" in world.condition("Ready", "younger").message
        assert world.is_mounted()
        await world.delete_claim()
        await world.until(lambda: world.is_mounted(claim="younger"))


async def test_a_claim_waits_for_what_is_still_flushed_at_its_path(world: World) -> None:
    async with world.process():
        await mounted(world)
        world.mounters.flushing = True
        await world.delete_claim()
        await world.until(lambda: world.phase() == Phase.UNMOUNTING)
        await world.add_claim("next", mountpoint="/data")
        await world.until(lambda: (e := world.entries("next").get("web")) and e.reason == "PathInUse")
        assert world.wanted() == {}
        world.mounters.flushing = False
        world.mounters.poke()
        await world.until(lambda: world.is_mounted(claim="next") and world.claim() is None)


async def test_a_claim_made_anew_under_its_name_is_another_claim(world: World) -> None:
    """Someone takes the finalizer away by hand while the mount is still there."""
    async with world.process():
        await mounted(world)
        world.mounters.flushing = True
        await world.delete_claim()
        await world.until(lambda: world.phase() == Phase.UNMOUNTING)
        await world.admin.merge_patch(CLAIMS, "data", {"metadata": {"finalizers": []}}, namespace=world.namespace)
        await world.until(lambda: world.claim() is None)
        await world.add_claim()
        await world.until(lambda: (e := world.entries().get("web")) and e.reason == "PathInUse")
        world.mounters.flushing = False
        world.mounters.poke()
        await world.until(world.is_mounted)
        claim = world.claim()
        assert claim is not None
        assert [source.split("dynvol-")[1].startswith(claim.metadata.uid) for source in world.table.mounts.values()] == [True]


async def test_a_finalizer_that_was_taken_away_comes_back(world: World) -> None:
    async with world.process():
        await mounted(world)
        await world.admin.merge_patch(CLAIMS, "data", {"metadata": {"finalizers": []}}, namespace=world.namespace)
        await world.until(lambda: (c := world.claim()) and names.CLAIM_FINALIZER in c.metadata.finalizers)


async def test_a_pod_made_anew_under_its_name_is_another_pod(world: World) -> None:
    async with world.process():
        old = await mounted(world)
        await world.end_pod(old)
        new = await world.add_pod()
        await world.until(lambda: (e := world.entries().get("web")) and (e.uid, e.phase) == (new.metadata.uid, Phase.MOUNTED))
        await world.until(lambda: len(world.table.directories) == 1)
        assert [path.parts[-2] for path in world.table.mounts] == [new.metadata.uid]


async def test_a_pod_that_has_finished_has_no_mount_and_no_entry(world: World) -> None:
    async with world.process():
        await mounted(world)
        await world.admin.merge_patch(
            PODS, "web", {"status": {"phase": "Succeeded"}}, namespace=world.namespace, subresource="status"
        )
        await world.until(lambda: not world.entries() and not world.table.mounts and world.mount_pod() is None)
        await world.until(lambda: world.condition("Ready").reason == "NoMatchingPods")


async def test_pods_of_a_namespace_may_share_a_mount_pod(world: World) -> None:
    async with world.process():
        await world.add_class()
        one = await world.add_pod("one", policy=names.SHARED)
        await world.add_pod("two", policy=names.SHARED)
        await world.add_claim()
        await world.until(lambda: world.is_mounted("one") and world.is_mounted("two"))
        assert world.mount_pod() is not None
        await world.end_pod(one)
        await world.until(lambda: [len(pods) for pods in world.table.directories.values()] == [1])
        await world.until(lambda: list(world.entries()) == ["two"])
        assert world.is_mounted("two")


async def test_a_claim_comes_to_a_warm_mount_pod_by_four_writes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it will be here, that it is wanted, that it is here, and that this is all: but for the mount pod's own report."""
    monkeypatch.setattr(claimstatus, "FIRST_SUM", 60.0)
    async with world.process() as process:
        await mounted(world)
        await world.until(lambda: world.condition("Ready").status == "True")
        before = len(process.wire.writes)
        await world.add_claim("more", finalizers=[names.CLAIM_FINALIZER])
        await world.until(lambda: world.condition("Ready", "more").status == "True")
        about = [write.rpartition("/apis/")[2].split("?")[0].split("/")[-2:] for write in process.wire.writes[before:]]
        mount_pod = world.mount_pod()
        assert mount_pod is not None
        told = ["pods", mount_pod.metadata.name]
        assert [what if what == told else what[-1] for what in about] == ["status", told, "status", "status"]


async def test_claims_on_one_bucket_share_its_client_and_come_and_go_each_for_itself(world: World) -> None:
    async with world.process():
        await world.add_class()
        await world.add_pod(policy=names.SHARED)
        await world.add_claim("one")
        await world.add_claim("two")
        await world.until(lambda: world.is_mounted(claim="one") and world.is_mounted(claim="two"))
        assert len(world.table.mounts) == 2 and len(set(world.table.mounts.values())) == 1
        await world.delete_claim("one")
        await world.until(lambda: world.claim("one") is None)
        assert world.is_mounted(claim="two") and len(world.table.mounts) == 1


async def test_a_claim_is_held_while_what_it_shared_is_left_mounted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mount names no claim, and its mount pod, which would say whose it is, is no more."""
    async with world.process():
        await world.add_class()
        await world.add_pod(policy=names.SHARED)
        await world.add_claim()
        await world.until(world.is_mounted)
    lost = world.mount_pod()
    assert lost is not None
    await world.mounters.end(lost)
    await world.until(lambda: world.mount_pod() is None)
    assert world.table.mounts
    await world.delete_claim()
    may_clear, clear = asyncio.Event(), world.table.clear_dead

    async def clear_when_told(root: PurePosixPath) -> None:
        await may_clear.wait()
        await clear(root)

    monkeypatch.setattr(world.table, "clear_dead", clear_when_told)
    async with world.process():
        await world.until(lambda: world.phase() == Phase.UNMOUNTING)
        may_clear.set()
        await world.until(lambda: world.claim() is None)
        assert not world.table.mounts


async def test_more_mounts_than_an_annotation_holds_are_refused_and_follow_when_there_is_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_WORDS", 800)
    async with world.process():
        await mounted(world)
        await world.add_claim("second")
        await world.until(lambda: world.is_mounted(claim="second"))
        await world.add_claim("third")
        await world.until(lambda: world.condition("Ready", "third").reason == "TooManyMounts")
        await world.delete_claim("second")
        await world.until(lambda: world.is_mounted(claim="third"))


async def test_a_missing_secret_is_told_and_mended_by_making_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(externalvolume, "PROBLEM_RETRY", 0.2)
    async with world.process():
        await world.add_class(secret=False)
        await world.add_pod()
        await world.add_claim()
        await world.until(lambda: world.condition("Ready").reason == "SecretNotFound")
        await world.add_secret()
        await world.until(world.is_mounted)


async def test_a_missing_class_is_told_and_mended_by_making_it(world: World) -> None:
    async with world.process():
        await world.add_pod()
        await world.add_claim()
        await world.until(lambda: world.condition("Ready").reason == "ClassNotFound")
        await world.add_class()
        await world.until(world.is_mounted)


async def test_a_pod_that_kubelet_has_not_published_yet_gets_its_mount_pod_once_it_has(world: World) -> None:
    async with world.process():
        await world.add_class()
        pod = await world.add_pod(published=False)
        await world.add_claim()
        await world.until(lambda: world.phase() == Phase.PENDING)
        assert world.mount_pod() is None
        world.publish(pod)
        await world.until(world.is_mounted)


async def test_an_edit_is_told_as_an_edit_and_a_loss_as_a_loss(world: World) -> None:
    async with world.process():
        await mounted(world)
        world.mounters.deaf = True
        await world.edit("data", readOnly=True)
        await world.until(lambda: world.phase() == Phase.MOUNTING)
        world.mounters.deaf = False
        world.mounters.poke()
        await world.until(world.is_mounted)
        world.mounters.deaf = True
        for path in list(world.table.mounts):
            world.table.unmount(path)
        await world.until(lambda: world.phase() == Phase.MOUNTING)
    assert {"Mounted", "Remounting", "MountLost"} <= await world.reasons_told("DynamicVolumeClaim")


async def test_a_claim_that_cannot_be_written_to_keeps_no_other_waiting(world: World) -> None:
    async with world.process(lead=False) as process:
        process.wire.refused = "/dynamicvolumeclaims/bad"
        await world.add_class()
        await world.add_pod()
        await world.add_claim("bad")
        await world.add_claim()
        await world.until(world.is_mounted)
        assert list(world.wanted()) == ["data"]
        process.wire.refused = ""
        await world.until(lambda: world.is_mounted(claim="bad"))


async def test_a_mount_that_works_stays_while_its_claim_cannot_be_written_to(world: World) -> None:
    async with world.process(lead=False) as process:
        await mounted(world)
        await world.add_claim("other")
        await world.until(lambda: world.is_mounted(claim="other"))
        process.wire.refused = "/dynamicvolumeclaims/data"
        await world.admin.merge_patch(CLAIMS, "data", {"metadata": {"finalizers": []}}, namespace=world.namespace)
        await world.delete_claim("other")
        await world.until(lambda: list(world.wanted()) == ["data"])
        assert world.is_mounted()
        process.wire.refused = ""
        await world.until(lambda: (c := world.claim()) and names.CLAIM_FINALIZER in c.metadata.finalizers)
