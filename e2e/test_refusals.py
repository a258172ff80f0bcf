"""Bad input gets a clear message in the place where the user looks, and harms nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from e2e import manifests
from e2e.conftest import World
from e2e.manifests import API


@pytest.fixture
def good(world: World) -> tuple[World, str]:
    """A pod with a mount that must go on working whatever else is asked for."""
    (pod,) = world.deploy()
    world.kubectl.apply(world.claim("good", world.bucket("good", readme="hello"), mountpoint="/good"))
    world.ready("good")
    return world, pod


def still_good(world: World, pod: str) -> None:
    assert world.read(pod, "/good/readme") == "hello"
    assert world.restarts(pod) == 0


@pytest.mark.parametrize(
    ("mountpoint", "says"),
    [
        ("/", "mountpoint"),
        ("data", "mountpoint"),
        ("/a/../b", "mountpoint"),
        ("/a//b", "mountpoint"),
        ("/a/./b", "mountpoint"),
        ("/a/", "mountpoint"),
        ("/" + "x" * 5000, "mountpoint"),
        ("/tab\there", "mountpoint"),
        ("", "mountpoint"),
    ],
    ids=["root", "relative", "dotdot", "double slash", "dot", "trailing slash", "5000 characters", "control character", "empty"],
)
def test_a_mountpoint_that_is_no_normal_absolute_path_is_refused_at_once(world: World, mountpoint: str, says: str) -> None:
    done = world.kubectl.try_apply(world.claim("bad", "bucket", mountpoint=mountpoint))
    assert done.code != 0
    assert says in done.said


def test_a_mountpoint_may_be_unicode(world: World) -> None:
    (pod,) = world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello"), mountpoint="/données/画像"))
    world.ready("data")
    assert world.read(pod, "/données/画像/readme") == "hello"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"s3Config": None}, "exactly one"),
        ({"storageProvider": "tape"}, "storageProvider"),
        ({"selector": None}, "selector"),
        ({"umask": "99"}, "umask"),
        ({"s3Config": {"bucket": "-o allow", "endpoint": "http://x"}}, "bucket"),
        ({"s3Config": {"bucket": "good-name", "endpoint": "ftp://x"}}, "endpoint"),
        ({"selector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}, "operator"),
    ],
    ids=["no config", "unknown provider", "no selector", "umask", "bucket", "endpoint", "operator"],
)
def test_what_the_schema_can_refuse_is_refused_by_kubectl_apply(world: World, spec: dict[str, Any], says: str) -> None:
    manifest = world.claim("bad", "bucket")
    manifest["spec"] = {k: v for k, v in {**manifest["spec"], **spec}.items() if v is not None}
    done = world.kubectl.try_apply(manifest)
    assert done.code != 0
    assert says in done.said


def test_two_provider_configurations_are_refused(world: World) -> None:
    manifest = world.claim("bad", "bucket")
    manifest["spec"]["nfsConfig"] = {"server": "x", "path": "/"}
    done = world.kubectl.try_apply(manifest)
    assert done.code != 0
    assert "nfsConfig" in done.said or "exactly one" in done.said


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"mount_options": "allow_root"}, "not allowed"),
        ({"mounter": "cat"}, "cat"),
        ({"mount_memory_limit": "lots"}, "mount-memory-limit"),
        ({"provider": "tape"}, "tape"),
    ],
    ids=["forbidden option", "unknown mounter", "bad quantity", "unknown provider"],
)
def test_a_class_that_cannot_work_is_refused(world: World, parameters: dict[str, str], says: str) -> None:
    done = world.kubectl.try_apply(manifests.provider_class("bad", secret="s3", secret_namespace=world.namespace, **parameters))
    assert done.code != 0
    assert says in done.said


def failing(world: World, name: str, reason: str) -> dict[str, str]:
    """Waits until the claim's condition has this reason; the condition."""

    def look() -> dict[str, str] | None:
        condition = world.condition(name, "Ready")
        return condition if condition["reason"] == reason else None

    found: dict[str, str] = world.settles(look, what=f"reason {reason}; is {world.condition(name, 'Ready')}")
    return found


@pytest.mark.parametrize(
    ("bucket", "endpoint", "reason"),
    [
        ("no-such-bucket", "", "NoSuchBucket"),
        ("any", "http://127.0.0.1:9", "EndpointUnreachable"),
        ("any", "http://does-not-exist.invalid", "EndpointNotFound"),
    ],
    ids=["bucket", "refusing endpoint", "unresolvable endpoint"],
)
def test_storage_that_is_not_there_is_told_in_condition_and_event(
    good: tuple[World, str], bucket: str, endpoint: str, reason: str
) -> None:
    world, pod = good
    world.kubectl.apply(world.claim("bad", bucket, endpoint=endpoint or world.store.endpoint))
    condition = failing(world, "bad", reason)
    assert pod in condition["message"]
    events = dict(world.kubectl.events("DynamicVolumeClaim", "bad"))
    assert reason in events
    assert reason in dict(world.kubectl.events("Pod", pod))
    still_good(world, pod)
    world.kubectl.delete("dvc", "bad")


def test_wrong_credentials_are_told(world: World) -> None:
    world.kubectl.apply(manifests.secret("s3", namespace=world.namespace, access=world.store.access, key="wrong"))
    world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    assert "wrong" not in failing(world, "data", "AccessDenied")["message"]


def test_a_missing_secret_is_told_and_mended_by_making_it(world: World) -> None:
    world.kubectl.delete("secret", "s3")
    (pod,) = world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    assert f"{world.namespace}/s3" in failing(world, "data", "SecretNotFound")["message"]
    incomplete = manifests.secret("s3", namespace=world.namespace, access=world.store.access, key="")
    del incomplete["stringData"]["secret-access-key"]
    world.kubectl.apply(incomplete)
    assert "secret-access-key" in failing(world, "data", "SecretKeyMissing")["message"]
    world.kubectl.apply(manifests.secret("s3", namespace=world.namespace, access=world.store.access, key=world.store.key))
    world.ready("data")
    assert world.read(pod, "/data/readme") == "hello"


def test_a_missing_class_is_told_and_mended_by_making_it(world: World) -> None:
    late = world.in_class(f"{world.provider_class}-late")
    (pod,) = late.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    assert late.provider_class in failing(world, "data", "ClassNotFound")["message"]
    world.kubectl.apply(manifests.provider_class(late.provider_class, secret="s3", secret_namespace=world.namespace))
    world.ready("data")
    assert world.read(pod, "/data/readme") == "hello"
    world.kubectl.delete("deployment", "web")
    world.kubectl.delete("spc", late.provider_class)


def test_a_claim_that_names_a_class_which_does_not_exist_is_told_so(world: World) -> None:
    done = world.kubectl.try_apply(world.claim("data", "bucket", storageProviderClass="nowhere"))
    if done.code == 0:
        world.settles(lambda: world.condition("data", "Accepted")["reason"] == "ClassNotFound")
        assert "nowhere" in world.condition("data", "Accepted")["message"]
    assert "nowhere" in done.said or done.code == 0


def test_a_pod_with_a_root_that_cannot_be_is_refused(world: World) -> None:
    annotations = {**world.annotations, f"{manifests.GROUP}/volume-mount-path-root": "/"}
    done = world.kubectl.try_apply(manifests.pod("bad", annotations=annotations))
    assert done.code != 0
    assert "volume-mount-path-root" in done.said


def test_the_api_explains_itself(world: World) -> None:
    for field in ("dvc.spec.mountpoint", "dvc.spec.s3Config.endpoint", "dvc.status.pods.phase", "spc.spec.parameters"):
        assert "DESCRIPTION" in world.kubectl("explain", field)
    assert API in world.kubectl("api-resources", f"--api-group={manifests.GROUP}")
