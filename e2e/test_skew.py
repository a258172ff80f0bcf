"""An earlier revision and this one, mixed: node process and mount pods of either, with real mounts under pods that read and write.

Only with `--skew-from REVISION`, and on the local cluster, which runs a revision without an image of it. What may differ between
versions is in config/README.md; `unit/test_skew.py` holds the format of what they say to each other.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.busy import await_rounds, busy_pod, identity, mount_pod_of, processes
from e2e.conftest import World, on_real
from e2e.grounds import installation
from e2e.grounds.ground import Ground
from e2e.grounds.revision import IMAGE, PROJECT, Revision, revision
from e2e.grounds.session import local_ground


@pytest.fixture(scope="module")
def before(request: pytest.FixtureRequest) -> Iterator[Revision]:
    options = request.config.option
    if not options.skew_from:
        pytest.skip("--skew-from REVISION upgrades from another commit and goes back to it; it takes two minutes")
    if options.kubeconfig:
        pytest.skip("--skew-from is for the local cluster, which needs no image of the other revision")
    with revision(options.skew_from) as found:
        yield found


@pytest.fixture(scope="module")
def ground(request: pytest.FixtureRequest, before: Revision, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """In the place of the session's: a cluster with the earlier revision installed."""
    with local_ground(
        tmp_path_factory.mktemp("skew"),
        real_apiserver=on_real(request.config),
        images=before.images,
        folder=before.config,
        image=IMAGE,
    ) as found:
        yield found


def switch(world: World, manifest: str) -> None:
    """Another revision's node process, webhook and definitions in the place of those that run."""
    kubectl = world.ground.kubectl
    old = processes(kubectl)
    installation.install(kubectl, manifest)
    world.settles(lambda: not processes(kubectl) & old, what="all processes are new")


def serves(world: World, claim: str, *pods: str) -> None:
    """A claim that is made now reaches all these pods, changes in them, and leaves them again."""
    first, second = world.bucket(claim, name="first"), world.bucket(f"{claim}-b", name="second")
    for bucket, name in ((first, "first"), (second, "second")):
        world.kubectl.apply(world.claim(claim, bucket, mountpoint=f"/{claim}"))
        for pod in pods:
            world.settles(lambda pod=pod, name=name: world.sees(pod, f"/{claim}/name", name))  # type: ignore[misc]
        world.settles(lambda: world.phases(claim) == dict.fromkeys(pods, "Mounted"), what="the claim says so")
    world.ready(claim)
    world.kubectl.delete("dvc", claim, timeout=90)
    assert all(world.misses(pod, f"/{claim}") for pod in pods)


def code_of(world: World, pod: str) -> str:
    """The folder from which the pod's mounter was started: so that never a revision is tried against itself."""
    asked = "from pathlib import Path; import dynvol; print(Path(dynvol.__file__).parents[1])"
    return world.kubectl.within(installation.SYSTEM).exec(mount_pod_of(world, pod), "python", "-c", asked).out.strip()


@pytest.mark.timeout(600)
def test_mount_pods_of_either_revision_serve_through_an_upgrade_and_the_way_back(world: World, before: Revision) -> None:
    kubectl = world.ground.kubectl
    earlier = installation.manifest(kubectl, folder=before.config, image=IMAGE)
    present = installation.manifest(kubectl)
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))

    old = busy_pod(world, "old")
    served = {old: identity(world, mount_pod_of(world, old))}
    assert code_of(world, old) == str(before.folder)

    switch(world, present)
    await_rounds(world, old)
    serves(world, "upgraded", old)
    new = busy_pod(world, "new")
    served[new] = identity(world, mount_pod_of(world, new))
    assert code_of(world, new) == str(PROJECT)

    switch(world, earlier)
    serves(world, "back", old, new)
    switch(world, present)
    serves(world, "again", old, new)

    for pod in (old, new):
        await_rounds(world, pod)
        assert identity(world, mount_pod_of(world, pod)) == served[pod]
    world.kubectl.delete("pod", old, new)
    world.settles(lambda: not world.mount_pods(), what="the mount pods of both are gone")
    assert world.ground.state_files() == []
