"""Whose credentials a mount uses: the class's, the claim's own, or none."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e import manifests
from e2e.conftest import World
from e2e.grounds.installation import SYSTEM
from e2e.kubectl import clean_environment

SECRET_ROLES = Path(__file__).parents[1] / "hack" / "secret-roles"
WRONG = "a-key-that-nobody-knows"


def copied(world: World) -> set[str]:
    """The keys in the Secret copies of this world's mount pods."""
    system = world.kubectl.within("dynvol-system")
    return {key for name in world.mount_pods() for key in system.get("secret", name).get("data", {})}


def naming(world: World, secret: str, name: str, bucket: str) -> manifests.Manifest:
    return world.claim(name, bucket, mountpoint=f"/{name}", credentialsSecretRef={"name": secret})


def test_a_claim_may_bring_a_secret_of_its_own_where_its_class_allows_that(world: World) -> None:
    """The class's own Secret is of no use here, so what works works with the claim's."""
    world.kubectl.apply(manifests.secret("s3", namespace=world.namespace, access=world.store.access, key=WRONG))
    bucket = world.bucket(readme="hello")
    claim = naming(world, "mine", "own", bucket)
    claim["spec"]["storageProviderClass"] = world.provider_class
    refused = world.kubectl.try_apply(claim)
    assert "does not let claims name Secrets of their own" in refused.said

    world.kubectl.apply(
        manifests.provider_class(
            world.provider_class,
            secret="s3",
            secret_namespace=world.namespace,
            mount_memory_limit="128Mi",
            allowed_claim_secrets="mine",
        )
    )
    (pod,) = world.deploy()
    world.kubectl.apply(
        naming(world, "mine", "own", bucket), naming(world, "theirs", "other", bucket), world.claim("plain", bucket)
    )
    world.settles(lambda: world.condition("other", "Ready")["reason"] == "NotAllowed")
    world.settles(lambda: world.condition("own", "Ready")["reason"] == "SecretNotFound")
    world.settles(lambda: world.condition("plain", "Ready")["reason"] == "AccessDenied")

    world.kubectl.apply(manifests.secret("mine", namespace=world.namespace, access=world.store.access, key=world.store.key))
    world.ready("own")
    assert world.read(pod, "/own/readme") == "hello"
    # What failed is tried at once with other credentials, and says so meanwhile.
    world.settles(lambda: world.condition("plain", "Ready")["reason"] == "AccessDenied")

    world.kubectl.delete("secret", "mine")
    # A node process that starts anew looks at Secrets at once.
    assert world.ground.kill("dynvol node")
    world.settles(lambda: not [key for key in copied(world) if key.startswith("claim-secret.")])
    assert world.read(pod, "/own/readme") == "hello"
    world.kubectl.delete("dvc", "own")
    assert world.misses(pod, "/own")
    assert world.restarts(pod) == 0


def test_a_bucket_that_anyone_may_read_needs_no_secret(world: World) -> None:
    """A private one says what is missing."""
    if world.store.for_anyone is None:
        pytest.skip("every S3 server here asks for keys")
    name = f"{world.provider_class}-public"
    world.kubectl.apply(manifests.provider_class(name, secret="", secret_namespace="", mount_memory_limit="128Mi"))
    world.settles(lambda: world.condition(name, "CredentialsAvailable", resource="spc")["reason"] == "NotNeeded")
    (pod,) = world.in_class(name).deploy()
    with world.store.for_anyone() as store:
        public = store.make("public", readme="for all")
        world.kubectl.apply(world.claim("public", public, mountpoint="/public", endpoint=store.endpoint))
        world.kubectl.apply(world.claim("private", world.bucket(readme="hello"), mountpoint="/private"))
        world.ready("public")
        assert world.read(pod, "/public/readme") == "for all"
        world.settles(lambda: world.condition("private", "Ready")["reason"] == "AccessDenied")
        assert "name a Secret" in world.condition("private", "Ready")["message"]
        world.kubectl.delete("dvc", "--all")
        assert world.misses(pod, "/public")


def test_rights_by_name_are_enough_for_the_secrets_that_are_named(world: World) -> None:
    """As hack/secret-roles prints them, in place of the right to read every Secret."""
    bucket = world.bucket(readme="hello")
    key = {"namespace": world.namespace, "access": world.store.access, "key": world.store.key}
    world.kubectl.apply(
        manifests.provider_class(
            world.provider_class,
            secret="s3",
            secret_namespace=world.namespace,
            mount_memory_limit="128Mi",
            allowed_claim_secrets="mine",
        ),
        *(manifests.secret(name, **key) for name in ("mine", "theirs")),
    )
    with without_the_right_to_every_secret(world):
        (pod,) = world.deploy()
        world.kubectl.apply(
            naming(world, "mine", "own", bucket), world.claim("plain", bucket), naming(world, "theirs", "no", bucket)
        )
        for name in ("own", "plain"):
            world.settles(lambda name=name: world.condition(name, "Ready")["reason"] == "SecretForbidden")  # type: ignore[misc]
        printed = secret_roles(world)
        assert '["mine", "s3"]' in printed
        world.ground.kubectl("apply", "-f", "-", stdin=printed)
        start_node_processes_anew(world)
        for name in ("own", "plain"):
            world.ready(name)
            assert world.read(pod, f"/{'data' if name == 'plain' else name}/readme") == "hello"
        world.kubectl.delete("dvc", "--all")


def secret_roles(world: World) -> str:
    command = [sys.executable, str(SECRET_ROLES), f"--kubeconfig={world.ground.kubectl.kubeconfig}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=clean_environment())
    assert done.returncode == 0, done.stderr
    return done.stdout


def start_node_processes_anew(world: World) -> None:
    """In other pods: kubelet lets one that was killed before, as other tests do, wait for longer and longer."""
    system = world.ground.kubectl.within(SYSTEM)
    system("rollout", "restart", "daemonset/dynvol-node")
    system("rollout", "status", "daemonset/dynvol-node", "--timeout=60s", timeout=70)


@contextmanager
def without_the_right_to_every_secret(world: World) -> Iterator[None]:
    """Inside, node processes may read what a role of some namespace names. One that starts anew looks at Secrets at once."""
    cluster = world.ground.kubectl
    rules = cluster.get("clusterrole", "dynvol-node")["rules"]
    (index,) = (i for i, rule in enumerate(rules) if rule["resources"] == ["secrets"])

    def change(**operation: object) -> None:
        patch = json.dumps([{"path": f"/rules/{index}", **operation}])
        cluster("patch", "clusterrole", "dynvol-node", "--type=json", f"--patch={patch}")

    change(op="remove")
    try:
        start_node_processes_anew(world)
        yield
    finally:
        change(op="add", value=rules[index])
