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


def assert_refused(world: World, *cases: tuple[manifests.Manifest, str]) -> None:
    """Each in the words that go with it."""
    tried = [(manifest, words, world.kubectl.try_apply(manifest)) for manifest, words in cases]
    wrong = [f"{manifest['spec']}: {done.said}" for manifest, words, done in tried if done.code == 0 or words not in done.said]
    assert not wrong


def test_a_mountpoint_that_is_no_normal_absolute_path_is_refused_at_once(world: World) -> None:
    paths = ["/", "data", "/a/../b", "/a//b", "/a/./b", "/a/", "/" + "x" * 5000, "/tab\there", ""]
    assert_refused(world, *((world.claim("bad", "bucket", mountpoint=path), "mountpoint") for path in paths))


def test_a_mountpoint_may_be_unicode(world: World) -> None:
    (pod,) = world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello"), mountpoint="/données/画像"))
    world.ready("data")
    assert world.read(pod, "/données/画像/readme") == "hello"


def changed(world: World, **spec: Any) -> manifests.Manifest:
    """A claim with other fields; None takes one away."""
    manifest = world.claim("bad", "bucket")
    return {**manifest, "spec": {k: v for k, v in {**manifest["spec"], **spec}.items() if v is not None}}


def test_what_the_schema_can_refuse_is_refused_by_kubectl_apply(world: World) -> None:
    assert_refused(
        world,
        (changed(world, s3Config=None), "exactly one"),
        (changed(world, nfsConfig={"server": "x", "path": "/"}), "exactly one"),
        (changed(world, storageProvider="tape"), "storageProvider"),
        (changed(world, selector=None), "selector"),
        (changed(world, umask="99"), "umask"),
        (changed(world, s3Config={"bucket": "-o allow", "endpoint": "http://x"}), "bucket"),
        (changed(world, s3Config={"bucket": "good-name", "endpoint": "ftp://x"}), "endpoint"),
        (changed(world, selector={"matchExpressions": [{"key": "a", "operator": "Near"}]}), "operator"),
    )


def test_a_class_that_cannot_work_is_refused(world: World) -> None:
    def wanting(**parameters: str) -> manifests.Manifest:
        return manifests.provider_class("bad", secret="s3", secret_namespace=world.namespace, **parameters)

    assert_refused(
        world,
        (wanting(mount_options="allow_root"), "not allowed"),
        (wanting(mounter="cat"), "cat"),
        (wanting(mount_memory_limit="lots"), "mount-memory-limit"),
        (wanting(provider="tape"), "tape"),
    )


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
