"""What a request means, and what is wrong with one that means nothing."""

from __future__ import annotations

import pytest

from dynvol.api.mounts import WantedMount
from dynvol.mounter.stage import SENT, Stage
from dynvol.service import wishes
from dynvol.service.errors import InvalidRequest
from dynvol.service.proto.dynvol.mounter import v1 as wire

BUCKET = {"bucket": "some-bucket", "endpoint": "https://s3.example.com"}
KEYS = {"access-key-id": "a", "secret-access-key": "s"}


def meant(
    path: str = "/data", *, provider: str = "s3", read_only: bool = False, held: str = "", **given: dict[str, str]
) -> WantedMount:
    parameters, credentials = given.get("parameters", BUCKET), given.get("credentials", {})
    return wishes.wanted(
        wire.MountRequest(
            path=path, provider=provider, parameters=parameters, read_only=read_only, credentials=credentials, credentials_name=held
        )
    )


@pytest.mark.parametrize("text", ["/data", "data", "data/", "//data//"])
def test_a_path_has_one_form(text: str) -> None:
    assert meant(text) == meant("/data")
    assert meant(text).path == "data"


@pytest.mark.parametrize("text", ["", "/", "..", "/a/../b", "a//b", "/a/./b", "a\0b", "a\nb", "x" * 256, "/".join(["deep"] * 300)])
def test_a_path_that_is_none_or_leads_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        meant(text)
    with pytest.raises(InvalidRequest):
        wishes.path(text)


def test_the_same_storage_at_the_same_path_has_the_same_name_whoever_asks() -> None:
    assert meant().source == meant(parameters=dict(reversed(BUCKET.items()))).source
    others = [
        meant("/other"),
        meant(read_only=True),
        meant(parameters={**BUCKET, "prefix": "p"}),
        meant(credentials=KEYS),
        meant(held="team-a"),
    ]
    assert len({meant().source, *(other.source for other in others)}) == 6
    assert len({meant().claim_uid, *(other.claim_uid for other in others)}) == 2, "one at the same path waits for the other's data"


def test_other_credentials_make_no_other_mount_and_are_nowhere_in_it() -> None:
    first, second = meant(credentials=KEYS), meant(credentials={**KEYS, "secret-access-key": "renewed-and-long"})
    assert first == second
    assert "renewed-and-long" not in repr(second)
    assert first.credentials.startswith(SENT)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InvalidRequest) as told:
        meant(parameters={"bucket": "Not A Bucket", "umask": "999"}, credentials={"password": "p"}, held="team-a")
    for complaint in ("no bucket name", "umask", "does not know: password", "exclude each other"):
        assert complaint in str(told.value)


def test_public_storage_is_asked_for_without_credentials() -> None:
    public = {**BUCKET, "anonymous": "true"}
    assert meant(parameters=public).parameters == public
    with pytest.raises(InvalidRequest, match="anonymous exclude each other"):
        meant(parameters=public, credentials=KEYS)
    with pytest.raises(InvalidRequest, match="anonymous exclude each other"):
        meant(parameters=public, held="team-a")


@pytest.mark.parametrize("name", ["..", "a/b", ".hidden", "A", "x" * 64, f"{SENT}1"])
def test_the_name_of_a_set_of_credentials_is_no_path_and_no_senders(name: str) -> None:
    with pytest.raises(InvalidRequest, match="set of credentials"):
        meant(held=name)


def test_a_provider_that_hands_its_secrets_over_never_gets_those_that_the_service_holds() -> None:
    """Whoever calls names the server, and would be given them by it."""
    storage = {"type": "webdav", "parameter.url": "https://dav.example.com", "parameter.vendor": "other"}
    assert (
        not Stage("/root", "/run", "/cache", "/held")
        .credentials_directory(meant(provider="rclone", parameters=storage).credentials)
        .startswith("/held")
    )
    with pytest.raises(InvalidRequest, match="come with the call"):
        meant(provider="rclone", parameters=storage, held="team-a")
    assert meant(provider="rclone", parameters=storage, credentials={"any-key": "x"}).credentials.startswith(SENT)
    with pytest.raises(InvalidRequest, match="does not know"):
        meant(provider="rclone", parameters=storage, credentials={"../x": "x"})


def test_a_caller_cannot_widen_what_may_be_asked_for() -> None:
    with pytest.raises(InvalidRequest, match="allowedOptions"):
        meant(
            provider="rclone",
            parameters={"type": "webdav", "parameter.url": "https://dav.example.com", "allowedOptions": "webdav.x"},
        )


def test_a_provider_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidRequest, match="floppy"):
        meant(provider="floppy")
