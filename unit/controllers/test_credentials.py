"""Whose keys a mount pod is given, and which mounts must wait for theirs. Pure."""

from __future__ import annotations

import base64

import msgspec

from dynvol.api import names
from dynvol.api.claim import DynamicVolumeClaim, SecretReference
from dynvol.api.core import Secret
from dynvol.api.meta import ObjectMeta
from dynvol.api.mounts import WantedMount, own_secret_prefix
from dynvol.controllers.credentials import OwnSecrets
from dynvol.controllers.desired import attachments, wanted_mounts, workloads
from dynvol.controllers.mountpodspec import credentials_digest, secret_copy
from dynvol.controllers.status import Problem
from dynvol.mount.providers import provider

from .objects import claim, pod, provider_class, volume

CLASS = provider_class(storage_provider_secret_name="keys", storage_provider_secret_namespace="default", allowed_claim_secrets="*")


def naming(secret: str, name: str = "data", mountpoint: str = "/data") -> DynamicVolumeClaim:
    made = claim(name, mountpoint=mountpoint)
    return msgspec.structs.replace(
        made, spec=msgspec.structs.replace(made.spec, credentials_secret_ref=SecretReference(name=secret))
    )


def told(*claims: DynamicVolumeClaim, policy: str = "") -> tuple[WantedMount, ...]:
    classes = {CLASS.metadata.name: CLASS}
    return wanted_mounts(attachments(pod(volumes=(volume(policy=policy),)), claims, classes), classes, ())


def secret(version: str = "1", **data: bytes) -> Secret:
    return Secret(metadata=ObjectMeta(uid="u", resource_version=version), data={k.replace("_", "-"): v for k, v in data.items()})


def copied(original: Secret | None, *, kind: str = "s3", **own: Secret) -> dict[str, bytes]:
    (workload,) = workloads(pod())
    made = secret_copy(workload, original=original, own=own, provider=provider(kind), namespace="d", owner=None)
    return {key: base64.b64decode(value) for key, value in made["data"].items()}


def test_a_mount_says_which_secret_is_its_own_and_another_secret_is_another_mount() -> None:
    (mine,), (theirs,), (of_class,) = told(naming("mine")), told(naming("theirs")), told(claim())
    assert (mine.credentials, theirs.credentials, of_class.credentials) == ("mine", "theirs", "")
    assert len({mine.spec_hash, theirs.spec_hash, of_class.spec_hash}) == 3


def test_pods_that_share_a_mount_pod_share_a_client_only_if_they_share_a_secret() -> None:
    named = [("mine", "a"), ("theirs", "b"), ("mine", "c")]
    mine, theirs, mine_too = told(*(naming(secret, name, f"/{name}") for secret, name in named), policy=names.SHARED)
    (of_class,) = told(claim(), policy=names.SHARED)
    assert mine.source == mine_too.source
    assert len({mine.source, theirs.source, of_class.source}) == 3


def test_a_mount_is_anonymous_only_if_no_one_names_a_secret() -> None:
    public = {"s3-sample": provider_class(allowed_claim_secrets="*")}
    (without,) = wanted_mounts(attachments(pod(), [claim()], public), public, ())
    (own,) = wanted_mounts(attachments(pod(), [naming("mine")], public), public, ())
    assert without.parameters["anonymous"] == "true"
    assert "anonymous" not in own.parameters
    assert "anonymous" not in told(claim())[0].parameters


def test_a_copy_keeps_secrets_apart_and_takes_only_what_is_read() -> None:
    of_class = secret(access_key_id=b"a", secret_access_key=b"s", password=b"of something else")
    found = copied(of_class, mine=secret(access_key_id=b"m", password=b"p"), theirs=secret(access_key_id=b"t"))
    assert found == {
        names.ACCESS_KEY: b"a",
        names.SECRET_KEY: b"s",
        f"{own_secret_prefix('mine')}{names.ACCESS_KEY}": b"m",
        f"{own_secret_prefix('theirs')}{names.ACCESS_KEY}": b"t",
    }
    assert copied(None) == {}


def test_no_key_of_a_class_can_pass_for_one_of_a_claim() -> None:
    planted = Secret(data={f"{own_secret_prefix('mine')}{names.ACCESS_KEY}": b"planted", "plain": b"x"})
    assert copied(planted, kind="rclone") == {"plain": b"x"}


def test_a_key_that_has_no_room_for_a_prefix_is_left_out_of_the_copy() -> None:
    long = Secret(data={"k" * 253: b"long"})
    assert copied(long, kind="rclone") == {"k" * 253: b"long"}
    assert copied(None, kind="rclone", mine=long) == {}


def test_the_digest_of_a_copy_changes_with_each_secret_in_it() -> None:
    one, other = secret("1"), secret("2")
    digests = [
        credentials_digest(one),
        credentials_digest(other),
        credentials_digest(None),
        credentials_digest(one, {"mine": one}),
        credentials_digest(one, {"mine": other}),
        credentials_digest(one, {"theirs": one}),
        credentials_digest(None, {"mine": one}),
    ]
    assert len(set(digests)) == len(digests)


def test_what_has_begun_goes_on_without_its_secret_and_what_has_not_waits() -> None:
    mine, theirs = told(naming("mine", "a", "/a"), naming("theirs", "b", "/b"))
    gone = OwnSecrets({}, {"mine": Problem("SecretNotFound", "")})
    assert gone.usable((mine, theirs), before=()) == (theirs,)
    assert gone.usable((mine, theirs), before=(mine,)) == (mine, theirs)
    changed = msgspec.structs.replace(mine, spec_hash="other")
    assert gone.usable((changed,), before=(mine,)) == ()
