"""What the command line of the mounter's service means."""

from __future__ import annotations

import argparse
import io
import re
import sys
from pathlib import Path

import pytest

from dynvol import cli
from dynvol.app import mountservice
from dynvol.app.mountclient import Unusable, read_credentials, storage_of
from dynvol.app.mountservice import access
from dynvol.rpc.listener import Access

PAGE = Path(__file__).resolve().parents[2] / "dynvol" / "service" / "README.md"


@pytest.mark.parametrize(
    ("text", "provider", "parameters"),
    [
        ("s3://imagenet", "s3", {"bucket": "imagenet"}),
        ("s3://imagenet/", "s3", {"bucket": "imagenet"}),
        ("s3://imagenet/train/a b/", "s3", {"bucket": "imagenet", "prefix": "train/a b"}),
        ("rclone", "rclone", {}),
    ],
)
def test_storage_is_a_url_or_a_providers_name(text: str, provider: str, parameters: dict[str, str]) -> None:
    assert storage_of(text, {"endpoint": ""}) == (provider, parameters)


@pytest.mark.parametrize(
    "text", ["", "s3:", "s3://", "s3:bucket", "/data", "https://bucket", "s3://bucket?x=1", "s3://bucket#x", "a/b"]
)
def test_what_names_no_storage_is_refused(text: str) -> None:
    with pytest.raises(Unusable):
        storage_of(text, {})


def test_parameters_are_what_was_said_and_no_more() -> None:
    found = storage_of("s3://b", {"endpoint": "https://x", "uid": "", "mounter": "rclone"}, more=["storageClass=a=b", "empty="])
    assert found == ("s3", {"bucket": "b", "endpoint": "https://x", "mounter": "rclone", "storageClass": "a=b"})


def test_credentials_come_from_a_directory_as_a_secret_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    (tmp_path / "access-key-id").write_text("a\n")
    (tmp_path / "secret-access-key").write_text("s")
    assert read_credentials(str(tmp_path), environment={}) == {"access-key-id": "a\n", "secret-access-key": "s"}


def test_credentials_come_from_a_file_or_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "access-key-id = a\n\nsecret-access-key=s=s==\nsession-token=\n"
    (tmp_path / "keys").write_text(text)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    wanted = {"access-key-id": "a", "secret-access-key": "s=s=="}
    assert read_credentials(str(tmp_path / "keys"), environment={}) == wanted
    assert read_credentials("-", environment={}) == wanted


def test_credentials_come_from_the_environment_only_when_that_is_asked_for() -> None:
    environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"}
    assert read_credentials("env", environment=environment) == {"access-key-id": "a", "secret-access-key": "s"}
    with pytest.raises(Unusable, match="no credentials in env"):
        read_credentials("env", environment={})


def test_a_complaint_about_credentials_does_not_repeat_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("access-key-id=a\nprecious\n"))
    with pytest.raises(Unusable) as told:
        read_credentials("-", environment={})
    assert str(told.value) == "credentials: line 2 is not key=value"


def test_who_may_connect() -> None:
    assert access("0600", "") == Access(0o600, -1, -1)
    assert access("660", "root:1234") == Access(0o660, 0, 1234)
    assert access("0660", ":root") == Access(0o660, -1, 0)
    for mode, owner in (("rw", ""), ("7777", ""), ("-1", ""), ("600", "nobody-of-that-name"), ("600", ":no-such-group")):
        with pytest.raises(ValueError, match=r"mode|user|group"):
            access(mode, owner)


@pytest.mark.parametrize("command", [["mounts"], ["umount", "/data"], ["mount", "s3://b", "/data"]])
def test_a_call_without_a_service_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert cli.main([*command, "--socket", f"unix://{tmp_path}/none.sock"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"dynvol {command[0]}: no service listens at unix://{tmp_path}/none.sock")
    assert said.endswith("(UNAVAILABLE)\n")


def test_a_service_that_cannot_begin_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def begin(root: str) -> str:
        listen, state = f"unix://{tmp_path}/m.sock", str(tmp_path / "state")
        given = {"socket_mode": "0600", "socket_owner": "", "credentials": "", "run": str(tmp_path / "run")}
        assert mountservice.main(root=root, listen=listen, state=state, grace=30, **given) == 1
        return capsys.readouterr().err

    assert f"No such file or directory: '{tmp_path}/none'" in begin(f"{tmp_path}/none")
    assert "root directory" in begin("/")


def test_the_page_lists_the_services_flags_with_their_defaults() -> None:
    section = PAGE.read_text().partition("\n## `dynvol mounter serve`\n")[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| `--")]
    told = {flag: default for flags, _, default in rows for flag in re.findall(r"--[a-z-]+", flags)}
    (commands,) = [action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction)]
    actions = [action for action in commands.choices["mounter serve"]._actions if "--help" not in action.option_strings]
    assert {option for action in actions for option in action.option_strings} == set(told)
    for action in actions:
        default = f"{action.default:g}" if isinstance(action.default, float) else action.default
        assert f"`{default}`" in told[action.option_strings[-1]] or not default
