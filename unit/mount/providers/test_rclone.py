"""What the provider rclone accepts, what it makes of it, and what it never lets a claim say. Nothing is run here."""

from __future__ import annotations

import configparser
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynvol.api import names
from dynvol.mount import providers
from dynvol.mount.providers.contract import Command, Credentials, Place, Unusable
from dynvol.mount.providers.rclone import Rclone
from dynvol.mount.providers.rclone.backends import BACKENDS

WEBDAV = {"type": "webdav", "parameter.url": "https://dav.example.com/files", "parameter.user": "reader", "secret.pass": "password"}
KEYS = Credentials(values={"password": "obscured-password", "pem": "-----BEGIN\nKEY\n-----END\n", "json": '{\n "a": 1\n}\n'})
PLACE = Place(source="dynvol-uid-hash", mountpoint="/run/mnt", secrets="/run/secrets", cache="/var/cache/x")


def command(parameters: Mapping[str, str] = WEBDAV, *, credentials: Credentials = KEYS) -> Command:
    return Rclone().client(parameters, read_only=False, credentials=credentials).command(PLACE)


def section(parameters: Mapping[str, str], *, credentials: Credentials = KEYS) -> dict[str, str]:
    file = configparser.ConfigParser(interpolation=None)
    file.read_string(command(parameters, credentials=credentials).files["rclone.conf"].decode())
    assert file.sections() == ["remote"]
    return dict(file["remote"])


def test_a_type_its_options_and_a_key_of_the_secret_are_enough() -> None:
    assert providers.validate("rclone", WEBDAV) == ()
    assert section(WEBDAV) == {
        "type": "webdav",
        "url": "https://dav.example.com/files",
        "user": "reader",
        "pass": "obscured-password",
    }


OF_THE_MOUNT_POD = ["local", "alias", "union", "combine", "crypt", "chunker", "compress", "hasher", "cache", "memory"]


@pytest.mark.parametrize("kind", [*OF_THE_MOUNT_POD, "", "nonesuch"])
def test_no_claim_reads_the_mount_pods_own_files(kind: str) -> None:
    (problem,) = providers.validate("rclone", {"type": kind, "path": "/etc/dynvol/credentials"})
    assert "is not allowed" in problem


@pytest.mark.parametrize("entry", ["local.copy_links", "alias.remote", "union.upstreams"])
def test_no_class_can_allow_it_either(entry: str) -> None:
    assert any("never allowed" in problem for problem in providers.validate_class("rclone", {"allowedOptions": entry}))
    kind, _, option = entry.partition(".")
    assert providers.validate("rclone", {"type": kind, f"parameter.{option}": "x", "allowedOptions": entry})


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("webdav", "bearer_token_command"),
        ("sftp", "ssh"),
        ("sftp", "server_command"),
        ("sftp", "md5sum_command"),
        ("sftp", "key_file"),
        ("sftp", "known_hosts_file"),
        ("google cloud storage", "service_account_file"),
        ("google cloud storage", "env_auth"),
        ("s3", "env_auth"),
        ("s3", "shared_credentials_file"),
        ("s3", "profile"),
        ("azureblob", "service_principal_file"),
        ("azureblob", "use_msi"),
        ("drive", "auth_url"),
        ("onedrive", "token_url"),
        ("webdav", "type"),
        ("webdav", "config_password"),
    ],
)
def test_no_claim_names_a_file_a_command_or_another_place_for_its_token(kind: str, option: str) -> None:
    address = {f"parameter.{BACKENDS[kind].address}": "https://host"} if BACKENDS[kind].address else {}
    for way in ("parameter", "secret"):
        (problem,) = providers.validate("rclone", {"type": kind, **address, f"{way}.{option}": "x"})
        assert f"{option} of type {kind} is not allowed" in problem.replace("'", "")


def test_options_that_are_secret_come_from_the_secret_only() -> None:
    assert providers.validate("rclone", {**WEBDAV, "parameter.pass": "in-the-open"})


def test_no_list_has_an_option_that_names_files_commands_or_remotes() -> None:
    dangerous = {"file", "command", "remote", "upstreams", "ssh", "auth_url", "token_url"}
    for kind, backend in BACKENDS.items():
        for option in backend.plain | backend.secret:
            assert not any(option == word or option.endswith(f"_{word}") for word in dangerous), (kind, option)


def test_a_class_can_widen_what_its_claims_say() -> None:
    hdfs = {"type": "hdfs", "parameter.namenode": "namenode:8020"}
    assert providers.validate("rclone", hdfs)
    assert providers.validate("rclone", {**hdfs, "allowedOptions": "hdfs.namenode, hdfs.username"}) == ()


@pytest.mark.parametrize("value", ["a\nb", "a\rssh = sh", "\x00", "%(pass)s", '"quoted"', "`quoted`", " a", "x" * 2000])
def test_no_value_is_more_than_one_line_of_text(value: str) -> None:
    assert providers.validate("rclone", {**WEBDAV, "parameter.user": value})


@given(value=st.text(max_size=40))
def test_what_is_accepted_is_read_as_it_was_meant(value: str) -> None:
    parameters = {**WEBDAV, "parameter.user": value}
    if value and value.isprintable() and providers.validate("rclone", parameters) == ():
        assert section(parameters)["user"] == value


@pytest.mark.parametrize("path", ["a/../b", "..", "a//b", "a\nb", "x" * 2000])
def test_paths_are_plain(path: str) -> None:
    assert providers.validate("rclone", {**WEBDAV, "path": path})


@pytest.mark.parametrize("path", ["-x", "--config=/x", "a,b", ":local:/etc", "/srv/data", "other:/x"])
def test_a_path_is_nothing_but_a_path(path: str) -> None:
    made = command({**WEBDAV, "path": path})
    assert made.argv[2] == f"remote:{path}"


@pytest.mark.parametrize("url", ["https://user:password@host", "host", "", "https://host/a b", "https://ho st"])
def test_an_address_is_given_and_holds_no_password(url: str) -> None:
    assert providers.validate("rclone", {**WEBDAV, "parameter.url": url})


def test_secrets_are_in_the_file_and_nowhere_else() -> None:
    made = command()
    seen = [*made.argv, *made.environment, *made.environment.values(), repr(made), repr(KEYS)]
    assert not any("obscured-password" in text for text in seen)


def test_keys_and_service_accounts_go_into_one_line() -> None:
    sftp = {"type": "sftp", "parameter.host": "host", "secret.key_pem": "pem"}
    assert section(sftp)["key_pem"] == "-----BEGIN\\nKEY\\n-----END"
    assert section({"type": "drive", "secret.service_account_credentials": "json"})["service_account_credentials"] == '{ "a": 1 }'


def test_a_key_that_the_secret_lacks_is_named() -> None:
    with pytest.raises(Unusable) as refused:
        command(credentials=Credentials())
    assert refused.value.finding.reason == "SecretKeyMissing"
    assert "`password`" in refused.value.finding.message
    with pytest.raises(Unusable) as refused:
        command(credentials=msgspec.structs.replace(KEYS, values={"password": "two\nlines"}))
    assert refused.value.finding.reason == "SecretMalformed"


@pytest.mark.parametrize(
    ("parameters", "endpoint"),
    [
        (WEBDAV, "https://dav.example.com"),
        ({"type": "sftp", "parameter.host": "files.example.com"}, "sftp://files.example.com"),
        ({"type": "sftp", "parameter.host": "files.example.com", "parameter.port": "2222"}, "sftp://files.example.com:2222"),
        ({"type": "google cloud storage"}, "google-cloud-storage://default"),
        ({"type": "b2", "parameter.endpoint": "https://b2.example.com"}, "https://b2.example.com"),
        ({"type": "drive"}, "drive://default"),
    ],
)
def test_classes_can_pin_where_it_is(parameters: Mapping[str, str], endpoint: str) -> None:
    assert Rclone().target(parameters).endpoint == endpoint


def test_a_class_says_where_its_secret_may_be_sent(secret_of_class: dict[str, str]) -> None:
    from dynvol.api.providerclass import ClassSpec
    from dynvol.webhook.rules.classes import review_class

    (problem,) = review_class(ClassSpec(provider="rclone", parameters=secret_of_class)).problems
    assert names.ALLOWED_ENDPOINTS_PARAMETER in problem
    pinned = {**secret_of_class, names.ALLOWED_ENDPOINTS_PARAMETER: "https://dav.example.com, sftp://files.example.com:2222"}
    assert review_class(ClassSpec(provider="rclone", parameters=pinned)).problems == ()


@pytest.fixture
def secret_of_class() -> dict[str, str]:
    return {names.SECRET_NAME_PARAMETER: "keys", names.SECRET_NAMESPACE_PARAMETER: "default"}


def test_secret_keys_without_any_secret_are_refused() -> None:
    wish = {"type": "webdav", "parameter.url": "https://dav.example.com", "secret.pass": "password"}
    assert Rclone().validate(wish) == ()
    (problem,) = Rclone().validate({**wish, "anonymous": "true"})
    assert "neither the class nor the claim names a Secret" in problem
    assert Rclone().validate({"type": "http", "parameter.url": "https://host", "anonymous": "true"}) == ()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("couldn't list files: 401 Unauthorized: 401 Unauthorized", "AccessDenied"),
        ("AccessDenied: Access Denied\n\tstatus code: 403, request id: 1", "AccessDenied"),
        ("error reading https://dav:40193/403: x509: certificate signed by unknown authority", "CertificateError"),
        ("Get https://10.0.40.13:4011/a-403/404: dial tcp 10.0.40.13:4011: connect: connection refused", "EndpointUnreachable"),
        ("error listing: directory not found", "PathNotFound"),
        ("status code: 404, request id: 1", "PathNotFound"),
    ],
)
def test_last_words_are_understood_whatever_numbers_an_address_has(words: str, reason: str) -> None:
    finding = Rclone().client(WEBDAV, read_only=False, credentials=KEYS).explain(words)
    assert finding is not None
    assert finding.reason == reason
