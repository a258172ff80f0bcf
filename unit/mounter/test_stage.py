"""The mounter's directories, the files in them, and the limits it reads."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from dynvol.api import names
from dynvol.api.mounts import own_secret_prefix
from dynvol.mount import mountinfo, syscalls
from dynvol.mount.errors import MountError
from dynvol.mounter import stage
from dynvol.mounter.limits import memory_limit
from dynvol.mounter.stage import Stage


def at(path: Path | str) -> Stage:
    return Stage(f"{path}/xvols", f"{path}/run", f"{path}/cache", f"{path}/secret")


def test_secrets_are_roots_alone_and_leave_nothing(tmp_path: Path) -> None:
    directory, files = str(tmp_path / "secrets"), {"passwd": b"a:b\n", "deep/file": b"x"}
    stage.write_secrets(directory, files)
    stage.write_secrets(directory, files)
    assert (tmp_path / "secrets/passwd").read_bytes() == b"a:b\n"
    found = {str(p.relative_to(tmp_path)): p.stat().st_mode & 0o777 for p in tmp_path.rglob("*")}
    assert found == {"secrets": 0o700, "secrets/passwd": 0o600, "secrets/deep": 0o700, "secrets/deep/file": 0o600}
    stage.remove_secrets(directory, files)
    assert list(tmp_path.iterdir()) == []


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/passwd.new").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        stage.write_secrets(str(tmp_path / "secrets"), {"passwd": b"a:b\n"})
    assert not victim.exists()


def test_credentials_are_read_as_they_are_now_without_the_line_break_of_an_editor(tmp_path: Path) -> None:
    place = at(tmp_path)
    Path(place.credentials).mkdir()
    assert place.read_credentials().access_key == ""
    Path(place.credentials, names.ACCESS_KEY).write_text("key\n")
    Path(place.credentials, names.SECRET_KEY).write_text("secret")
    found = place.read_credentials()
    assert (found.access_key, found.secret_key, found.session_token, found.ca_file) == ("key", "secret", "", "")
    Path(place.credentials, "ca.crt").write_text("pem")
    assert place.read_credentials().ca_file == f"{place.credentials}/ca.crt"


def test_a_claims_own_secret_is_a_set_apart(tmp_path: Path) -> None:
    """In one directory, since a Secret's copy has no other."""
    place = at(tmp_path)
    Path(place.credentials).mkdir()
    for secret in ("mine", "theirs"):
        Path(place.credentials, f"{own_secret_prefix(secret)}{names.ACCESS_KEY}").write_text(f"key of {secret}")
    Path(place.credentials, f"{own_secret_prefix('theirs')}{names.CA_CERTIFICATE}").write_text("pem")
    Path(place.credentials, names.SECRET_KEY).write_text("the class's")
    assert place.read_credentials().values == {names.SECRET_KEY: "the class's"}
    assert place.read_credentials("mine").values == {names.ACCESS_KEY: "key of mine"}
    assert place.read_credentials("mine").ca_file == ""
    assert place.read_credentials("theirs").access_key == "key of theirs"
    assert Path(place.read_credentials("theirs").ca_file).read_text() == "pem"
    assert place.read_credentials("min").values == {}
    assert (place.has_credentials("mine"), place.has_credentials("min")) == (True, False)
    assert place.whose("mine") == "the claim's Secret mine"


def test_on_its_own_the_mounter_has_its_sets_in_directories(tmp_path: Path) -> None:
    place = msgspec.structs.replace(at(tmp_path), for_pods=False)
    os.makedirs(f"{place.credentials}/team-a")
    Path(place.credentials, "team-a", names.ACCESS_KEY).write_text("key of team-a")
    assert place.read_credentials("team-a").access_key == "key of team-a"
    assert place.read_credentials().values == {}


def test_a_secret_cannot_be_named_after_what_came_with_a_call(tmp_path: Path) -> None:
    place = at(tmp_path)
    os.makedirs(f"{place.sent_credentials}/sent-x")
    Path(place.sent_credentials, "sent-x", names.ACCESS_KEY).write_text("another's")
    assert place.read_credentials("sent-x").values == {}


@pytest.mark.root
def test_the_private_place_can_never_be_bound_and_goes_at_the_end(playground: str) -> None:
    place = at(playground)
    os.makedirs(place.root)
    with stage.opened(place):
        mount = mountinfo.read().at(place.run)
        assert mount is not None
        assert (mount.fstype, mount.unbindable) == ("tmpfs", True)
        with pytest.raises(MountError):
            syscalls.open_tree(place.run)
    assert mountinfo.read().at(place.run) is None


@pytest.mark.root
def test_a_private_place_that_kubelet_gave_is_used_and_left(playground: str) -> None:
    place = at(playground)
    os.makedirs(place.root)
    os.makedirs(place.run)
    syscalls.mount(place.run, source="emptydir", fstype="tmpfs")
    with stage.opened(place):
        assert [m.source for m in mountinfo.read().stack(place.run)] == ["emptydir"]
    assert os.listdir(place.run) == []


@pytest.mark.parametrize(
    ("text", "limit"), [("52428800\n", 52428800), ("max\n", None), ("9223372036854771712\n", None), ("", None)]
)
def test_the_memory_limit_is_the_control_groups(tmp_path: Path, text: str, limit: int | None) -> None:
    (tmp_path / "limit").write_text(text)
    assert memory_limit((str(tmp_path / "missing"), str(tmp_path / "limit"))) == limit
    assert memory_limit(()) is None
