"""What programs write, read, and as whom."""

from __future__ import annotations

import base64

import pytest

from e2e import manifests
from e2e.conftest import World
from e2e.manifests import ROOT

CLIENTS = ("s3fs", "rclone")


@pytest.fixture(params=CLIENTS)
def client_world(world: World, request: pytest.FixtureRequest) -> World:
    """The same with each FUSE client."""
    world.kubectl.apply(
        manifests.provider_class(
            world.provider_class, secret="s3", secret_namespace=world.namespace, mounter=request.param, mount_memory_limit="256Mi"
        )
    )
    return world


def test_a_read_only_claim_refuses_writes(client_world: World) -> None:
    world = client_world
    (pod,) = world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello"), read_only=True))
    world.ready("data")
    assert world.read(pod, "/data/readme") == "hello"
    for command in (["touch", f"{ROOT}/data/new"], ["rm", f"{ROOT}/data/readme"], ["mkdir", f"{ROOT}/data/d"]):
        assert "Read-only file system" in world.kubectl.exec(pod, *command).said


def test_nothing_can_be_written_where_nothing_is_mounted(world: World) -> None:
    (pod,) = world.deploy()
    for path in ("new", "data", "data/new"):
        done = world.kubectl.exec(pod, "mkdir", "-p", f"{ROOT}/{path}")
        assert "Read-only file system" in done.said


def test_what_was_written_and_closed_is_in_the_bucket_though_the_claim_goes_at_once(client_world: World) -> None:
    world = client_world
    (pod,) = world.deploy()
    bucket = world.bucket(readme="hello")
    world.kubectl.apply(world.claim("data", bucket))
    world.ready("data")
    script = f"for i in 1 2 3 4 5; do echo written-$i > {ROOT}/data/file-$i; done"
    assert world.kubectl.exec(pod, "sh", "-c", script).code == 0
    world.kubectl.delete("dvc", "data")
    assert {key: world.store.read(bucket, key) for key in world.store.keys(bucket)} == {
        "readme": "hello",
        **{f"file-{i}": f"written-{i}\n" for i in range(1, 6)},
    }


def test_a_user_with_an_fs_group_can_write_and_owns_what_it_sees(client_world: World) -> None:
    world = client_world
    spec = manifests.pod_spec(securityContext={"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000})
    (pod,) = world.deploy(spec=spec)
    bucket = world.bucket(readme="hello")
    world.kubectl.apply(world.claim("data", bucket))
    world.ready("data")
    assert world.read(pod, "/data/readme") == "hello"
    done = world.kubectl.exec(pod, "sh", "-c", f"id -u; echo mine > {ROOT}/data/mine && stat -c '%u %g' {ROOT}/data/mine")
    assert done.out.split("\n")[:2] == ["1000", "1000 2000"], done.said
    world.settles(lambda: world.store.read(bucket, "mine") == "mine\n", what="the file is in the bucket")


def test_owner_and_mode_can_be_the_claims_word(world: World) -> None:
    (pod,) = world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello"), uid=1234, gid=4321, umask="0077"))
    world.ready("data")
    assert world.kubectl.exec(pod, "stat", "-c", "%u %g %a", f"{ROOT}/data").out.split() == ["1234", "4321", "700"]


def test_a_prefix_shows_as_the_root(client_world: World) -> None:
    world = client_world
    (pod,) = world.deploy()
    bucket = world.bucket(**{"team/a/name": "a", "team/b/name": "b"})
    world.kubectl.apply(world.claim("data", bucket, s3={"prefix": "team/a"}))
    world.ready("data")
    assert world.kubectl.exec(pod, "ls", f"{ROOT}/data").out.split() == ["name"]
    assert world.read(pod, "/data/name") == "a"


def test_changes_in_the_bucket_show_in_the_pod(world: World) -> None:
    (pod,) = world.deploy()
    bucket = world.bucket(readme="hello")
    world.kubectl.apply(world.claim("data", bucket))
    world.ready("data")
    world.store.put(bucket, "later", "new")
    world.settles(lambda: world.sees(pod, "/data/later", "new"))


_WATCH = """
until [ -e "$1/readme" ]; do sleep 0.1; done
exec 3< "$1/readme"
while :; do
    if [ "$(cat "$1/readme")" = hello ]; then echo read; else echo FAILED; fi
    sleep 0.1
done
"""
"""Holds a file open, and reads it all the time."""


def test_a_changed_secret_is_in_use_under_programs_that_notice_nothing(client_world: World) -> None:
    world = client_world
    if world.store.other is None:
        pytest.skip("only one key of the S3 server is known: --s3-other-access-key, --s3-other-secret-key")
    (pod,) = world.deploy(spec=manifests.pod_spec(command=["sh", "-c", _WATCH, "sh", f"{ROOT}/data"]))
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    before = device(world, pod)
    access, key = world.store.other
    world.kubectl.apply(manifests.secret("s3", namespace=world.namespace, access=access, key=key))
    world.settles(lambda: device(world, pod) != before, what="a client with the new key serves", within=150)
    (mount_pod,) = world.mount_pods()
    copy = world.kubectl.within("dynvol-system").get("secret", mount_pod)["data"]
    assert base64.b64decode(copy["access-key-id"]).decode() == access
    # It goes on for a little: what would fail fails when the earlier client ends.
    lines = world.kubectl("logs", pod).count("\n")
    world.settles(lambda: world.kubectl("logs", pod).count("\n") > lines + 20)
    assert "FAILED" not in world.kubectl("logs", pod)
    assert world.restarts(pod) == 0
    # Before its claim: a file that is held open would hold the client for half a minute.
    world.kubectl.delete("deployment", "web")
    world.settles(lambda: not world.pods())


def device(world: World, pod: str) -> str:
    """Of the file system that shows: another client's is another one."""
    return world.kubectl.exec(pod, "stat", "-c", "%d", f"{ROOT}/data").out.strip()
