"""A class lives as long as it is used."""

from __future__ import annotations

from e2e import manifests
from e2e.conftest import World


def test_a_class_that_is_deleted_while_used_stays_and_says_why_until_its_last_user_goes(world: World) -> None:
    name = f"{world.provider_class}-leaving"
    world.kubectl.apply(manifests.provider_class(name, secret="s3", secret_namespace=world.namespace, mount_cpu_limit="1"))
    (pod,) = world.in_class(name).deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")

    world.kubectl.delete("spc", name, wait=False)
    world.settles(lambda: pod in world.condition(name, "Terminating", resource="spc")["message"])
    assert world.read(pod, "/data/readme") == "hello"

    world.kubectl.delete("deployment", "web")
    world.kubectl.wait(f"spc/{name}", condition="delete", timeout=60)


def test_a_class_says_how_it_stands_and_who_uses_it(world: World) -> None:
    world.deploy(replicas=2)
    world.kubectl.wait(f"spc/{world.provider_class}", condition="condition=Ready")
    world.settles(lambda: world.kubectl.get("spc", world.provider_class)["status"]["pods"] == 2)


def test_the_secret_copy_goes_with_its_mount_pod(world: World) -> None:
    world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    (mount_pod,) = world.mount_pods()
    system = world.kubectl.within("dynvol-system")
    assert system.get("secret", mount_pod)
    world.kubectl.delete("dvc", "data")
    world.settles(lambda: "NotFound" in system.try_("get", "secret", mount_pod).said)


def test_a_prepared_mount_pod_is_there_before_the_first_claim_and_goes_with_the_pod(world: World) -> None:
    name = f"{world.provider_class}-prepared"
    world.kubectl.apply(manifests.provider_class(name, secret="s3", secret_namespace=world.namespace, mount_pod="prepared"))
    try:
        there = world.in_class(name)
        (pod,) = there.deploy()
        (prepared,) = world.settles(there.mount_pods)
        world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
        world.ready("data")
        assert world.read(pod, "/data/readme") == "hello"
        world.kubectl.delete("dvc", "data", timeout=60)
        assert there.mount_pods() == [prepared]
        world.kubectl.delete("deployment", "web")
        world.settles(lambda: not there.mount_pods())
    finally:
        world.kubectl.delete("spc", name, timeout=60)
