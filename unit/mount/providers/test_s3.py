"""What the s3 provider accepts, what it makes of it, and what it says when something is wrong. Nothing is run here."""

from __future__ import annotations

import configparser
import importlib
import re
import string
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynvol.mount import providers
from dynvol.mount.providers.contract import Answer, Client, Command, Credentials, Place, Request, Silence, Unusable
from dynvol.mount.providers.s3 import MOUNTERS, S3, check
from dynvol.mount.providers.s3.bucket import Bucket
from unit.examples import examples

MINIMAL = {"bucket": "my-bucket", "endpoint": "https://play.min.io", "pathStyle": "true"}
KEYS = Credentials(access_key="AKID", secret_key="s3cr3t/with+chars=")
PLACE = Place(source="dynvol-uid-hash", mountpoint="/run/mnt", secrets="/run/secrets", cache="/var/cache/x", memory=20 << 20)
CLIENTS = ["s3fs", "rclone"]


def client(*, read_only: bool = False, credentials: Credentials = KEYS, **parameters: str) -> Client:
    return S3().client({**MINIMAL, **parameters}, read_only=read_only, credentials=credentials)


def options(**parameters: str) -> dict[str, str]:
    """The option list that s3fs gets."""
    listed = S3().client({**MINIMAL, **parameters}, read_only=False, credentials=KEYS).command(PLACE).argv[-1]
    return {name: value for name, _, value in (entry.partition("=") for entry in listed.split(","))}


def question(asking: Client) -> Request:
    found = asking.check(PLACE, now=0)
    assert isinstance(found, Request)
    return found


# --- parameters


def test_a_bucket_and_an_endpoint_are_enough() -> None:
    assert providers.validate("s3", MINIMAL) == ()
    assert providers.validate("s3", {"bucket": "my-bucket"}) == ()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ab",
        "a" * 64,
        "Upper",
        "under_score",
        "-dash",
        "dash-",
        "a..b",
        "192.168.0.1",
        "a/b",
        "a b",
        "a\nb",
        "xn--a",
        "a,b",
        "ä",
    ],
)
def test_what_is_no_bucket_name_is_refused(name: str) -> None:
    (problem,) = providers.validate("s3", {**MINIMAL, "bucket": name})
    assert "bucket" in problem


@pytest.mark.parametrize(
    "endpoint",
    [
        "play.min.io",
        "ftp://host",
        "https://",
        "https://host/path",
        "https://user:pass@host",
        "https://host:99999",
        "https://host:0",
        "https://host,ro",
        "https://host\n",
        "https://host?x=1",
        "https://-host",
        "https://host..example",
        "https://host-.example",
        f"https://{'a' * 64}.example",
        "https://[::g]",
        "http://host name",
    ],
)
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    (problem,) = providers.validate("s3", {**MINIMAL, "endpoint": endpoint})
    assert "endpoint" in problem


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9000", "https://s3.example.com/", "https://[::1]:9000", "HTTPS://Host"])
def test_endpoints_are_urls_with_a_host_and_perhaps_a_port(endpoint: str) -> None:
    assert providers.validate("s3", {**MINIMAL, "endpoint": endpoint}) == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("region", "eu west"),
        ("region", "eu,ro"),
        ("region", "-x"),
        ("prefix", "a/../b"),
        ("prefix", "a//b"),
        ("prefix", "a\nb"),
        ("prefix", "x" * 600),
        ("pathStyle", "yes"),
        ("uid", "-1"),
        ("uid", "4294967295"),
        ("gid", "root"),
        ("uid", "¹"),
        ("umask", "9"),
        ("umask", "01777"),
        ("umask", "u=rwx"),
        ("mounter", "goofys"),
        ("options", "allow_root"),
        ("options", "retries=many"),
        ("options", "retries=5,url=http://evil"),
        ("options", "-o retries=5"),
        ("options", "retries=5\nuse_cache=/"),
        ("options", "x" * 5000),
    ],
)
def test_other_parameters_are_held_to_their_form(name: str, value: str) -> None:
    problems = providers.validate("s3", {**MINIMAL, name: value})
    assert len(problems) == 1
    assert len(problems[0]) < 1500


def test_every_problem_is_told_at_once() -> None:
    assert len(providers.validate("s3", {"bucket": "B", "endpoint": "x", "uid": "x", "umask": "x"})) == 4


def test_an_unknown_provider_is_named_with_those_there_are() -> None:
    assert providers.validate("floppy", {}) == ('there is no storage provider "floppy"; this version has: nfs, pvc, rclone, s3',)


def test_a_class_is_judged_by_its_mounter_and_options_alone() -> None:
    assert providers.validate_class("s3", {"options": "retries=3, kernel_cache"}) == ()
    (problem,) = providers.validate_class("s3", {"mounter": "rclone", "options": "retries=3"})
    assert "not allowed for rclone" in problem


@given(name=st.text(alphabet=string.printable, max_size=20), value=st.text(alphabet=string.printable, max_size=20))
def test_no_accepted_option_escapes_its_place(name: str, value: str) -> None:
    given = f"{name}={value}"
    if providers.validate_class("s3", {"options": given}) == ():
        extra = options(options=given).keys() - options().keys()
        assert extra <= {part.strip(" ").partition("=")[0] for part in given.split(",")}
        assert "\n" not in ",".join(options(options=given))


crooked = st.text(max_size=12) | st.lists(
    st.sampled_from(
        ["a", "b", "-", "--", "-o", ",", "=", ":", "/", "..", " ", "\n", "\0", "\\", "'", '"', "%", "#", ";", "[", "]", "@", "$(x)"]
    ),
    max_size=8,
).map("".join)


def shape(command: Command) -> list[list[str]]:
    """All of a command but its values: how many arguments, which options, which lines in which files."""
    arguments = [_names(before, each) for before, each in zip(("", *command.argv), command.argv, strict=False)]
    lines = [[line.partition("=")[0] for line in content.decode().split("\n")] for _, content in sorted(command.files.items())]
    return [*arguments, *lines, sorted(command.environment)]


def _names(before: str, argument: str) -> list[str]:
    if before == "-o":
        return [option.partition("=")[0] for option in argument.split(",")]
    return [argument.partition("=")[0] if argument.startswith("-") else "a value"]


PLAIN = {"bucket": "my-bucket", "prefix": "p", "endpoint": "https://host", "region": "r"}


@examples(400)
@given(mounter=st.sampled_from(MOUNTERS), field=st.sampled_from(sorted(PLAIN)), text=crooked, after=st.booleans())
def test_no_accepted_text_becomes_an_option_or_a_line_of_its_own(mounter: str, field: str, text: str, after: bool) -> None:
    given = {**PLAIN, "mounter": mounter, field: PLAIN[field] + text if after else text}
    if not given[field].strip("/") or providers.validate("s3", given):
        return
    made, expected = (
        S3().client({**each, "mounter": mounter}, read_only=False, credentials=KEYS).command(PLACE) for each in (given, PLAIN)
    )
    assert shape(made) == shape(expected)
    assert not any("\0" in argument or "\n" in argument for argument in made.argv)


# --- commands


def test_s3fs_gets_its_options_in_one_list() -> None:
    command = client(mounter="s3fs", read_only=True, region="eu-central-1", prefix="/a b,c/").command(PLACE)
    assert command.argv[:2] == ("s3fs", "my-bucket:/a b,c")
    found = options(region="eu-central-1")
    assert found["url"] == "https://play.min.io"
    assert found["endpoint"] == "eu-central-1"
    assert found["fsname"] == PLACE.source
    assert "ro" in command.argv[-1].split(",")
    assert "ro" not in found


def test_rclone_gets_the_storage_from_its_file_and_the_place_from_its_flags() -> None:
    command = client(mounter="rclone", prefix="/--config=x/", uid="7").command(PLACE)
    assert command.argv[:4] == ("rclone", "mount", "remote:my-bucket/--config=x", "/run/mnt")
    assert "--uid=7" in command.argv
    file = configparser.ConfigParser(interpolation=None)
    file.read_string(command.files["rclone.conf"].decode())
    assert file["remote"]["endpoint"] == "https://play.min.io"
    assert file["remote"]["secret_access_key"] == KEYS.secret_key


def test_s3fs_is_not_given_a_session_token() -> None:
    with pytest.raises(Unusable) as refused:
        client(mounter="s3fs", credentials=msgspec.structs.replace(KEYS, session_token="token"))
    assert refused.value.finding.reason == "SessionTokenUnsupported"


@pytest.mark.parametrize(("mounter", "token"), [("s3fs", ""), ("rclone", ""), ("rclone", "to/ken+==")])
def test_credentials_are_in_files_and_nowhere_else(mounter: str, token: str) -> None:
    command = client(mounter=mounter, credentials=msgspec.structs.replace(KEYS, session_token=token)).command(PLACE)
    seen = [*command.argv, *command.environment, *command.environment.values(), repr(command), repr(KEYS)]
    for secret in filter(None, (KEYS.access_key, KEYS.secret_key, token)):
        assert not any(secret in text for text in seen)
        assert any(secret.encode() in content for content in command.files.values())


@pytest.mark.parametrize("mounter", CLIENTS)
def test_an_authority_of_the_secret_is_trusted(mounter: str) -> None:
    command = client(mounter=mounter, credentials=msgspec.structs.replace(KEYS, ca_file="/etc/ca.crt")).command(PLACE)
    assert "/etc/ca.crt" in " ".join([*command.argv, *command.environment.values()])


def test_user_options_win_over_defaults_and_never_over_what_is_fixed() -> None:
    assert options(options="max_stat_cache_size=7")["max_stat_cache_size"] == "7"
    assert options(options="retries=7, kernel_cache")["retries"] == "7"


def test_a_small_class_gets_small_caches() -> None:
    assert int(options()["max_stat_cache_size"]) < 20_000
    roomy = client(mounter="s3fs").command(msgspec.structs.replace(PLACE, memory=None)).argv[-1]
    assert "max_stat_cache_size=100000" in roomy


@pytest.mark.parametrize(
    ("credentials", "reason", "key"),
    [
        (Credentials(secret_key="x"), "SecretKeyMissing", "access-key-id"),
        (Credentials(access_key="x"), "SecretKeyMissing", "secret-access-key"),
        (Credentials(access_key="x", secret_key="two\nlines"), "SecretMalformed", "secret-access-key"),
        (Credentials(access_key="a:b", secret_key="x"), "SecretMalformed", "access-key-id"),
        (Credentials(access_key="a", secret_key="x", session_token='"quoted"'), "SecretMalformed", "session-token"),
    ],
)
def test_credentials_that_no_client_can_hold_are_refused_by_the_secrets_key(
    credentials: Credentials, reason: str, key: str
) -> None:
    with pytest.raises(Unusable) as refused:
        client(credentials=credentials)
    assert refused.value.finding.reason == reason
    assert f"`{key}`" in refused.value.finding.message


@pytest.mark.parametrize("mounter", MOUNTERS)
def test_without_credentials_each_client_is_told_not_to_sign(mounter: str) -> None:
    given = client(mounter=mounter, anonymous="true").command(PLACE)
    said = " ".join((*given.argv, *(content.decode() for content in given.files.values())))
    assert KEYS.access_key not in said and KEYS.secret_key not in said, "not even with those that lie about"
    match mounter:
        case "s3fs":
            assert "public_bucket=1" in said and "passwd" not in said
        case "rclone":
            assert "access_key" not in said and "env_auth" not in said
        case "geesefs":
            assert "shared-config" not in said and "profile" not in said
        case _:
            assert "--no-sign-request" in given.argv
    assert (mounter == "rclone") == bool(given.files)


def test_geesefs_keeps_its_credentials_for_a_bucket_that_anyone_may_read() -> None:
    assert "--profile=default" in client(mounter="geesefs").command(PLACE).argv


def test_without_credentials_the_check_is_not_signed_and_a_refusal_says_what_is_missing() -> None:
    asking = client(anonymous="true")
    assert question(asking).headers == {"host": "play.min.io"}
    for refusal in (error(403, "AccessDenied"), error(400, "UnsupportedAlgorithm"), Answer(401, b"")):
        found = asking.judge(refusal)
        assert found is not None
        assert (found.reason, "name a Secret" in found.message) == ("AccessDenied", True)


def test_messages_speak_of_the_secret_that_is_meant() -> None:
    given = msgspec.structs.replace(KEYS, whose="the claim's Secret mine")
    for answer in (
        error(403, "InvalidAccessKeyId"),
        error(403, "SignatureDoesNotMatch"),
        error(403, "AccessDenied"),
        Silence.UNTRUSTED,
    ):
        found = client(credentials=given).judge(answer)
        assert found is not None
        assert "the claim's Secret mine" in found.message


# --- the check


def test_the_check_is_signed_as_amazon_documents_it() -> None:
    """The example "GET Bucket (List Objects)" of the documentation of Signature Version 4."""
    keys = Credentials(access_key="AKIAIOSFODNN7EXAMPLE", secret_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    headers = check._signed("examplebucket.s3.amazonaws.com", "/", "max-keys=2&prefix=J", "us-east-1", keys, now=1369353600)
    assert headers["authorization"].endswith("Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7")


def test_the_check_asks_for_one_key_below_the_prefix() -> None:
    request = question(client(prefix="a b/ü"))
    assert request is not None
    assert (request.tls, request.host, request.port) == (True, "play.min.io", 443)
    assert request.target == "/my-bucket?list-type=2&max-keys=1&prefix=a%20b%2F%C3%BC%2F"
    assert request.headers["host"] == "play.min.io"


def test_without_path_style_the_bucket_is_part_of_the_host() -> None:
    request = question(client(pathStyle="false", endpoint="http://s3.example.com:9000"))
    assert request is not None
    assert (request.host, request.port, request.headers["host"]) == (
        "my-bucket.s3.example.com",
        9000,
        "my-bucket.s3.example.com:9000",
    )
    assert request.target.startswith("/?")


def test_without_an_endpoint_it_is_amazons_of_the_region() -> None:
    request = question(S3().client({"bucket": "my-bucket", "region": "eu-west-1"}, read_only=False, credentials=KEYS))
    assert request is not None
    assert request.host == "my-bucket.s3.eu-west-1.amazonaws.com"


WHERE = Bucket.of(MINIMAL)


def error(status: int, code: str, extra: str = "") -> Answer:
    return Answer(status, f"<?xml version='1.0'?><Error><Code>{code}</Code>{extra}</Error>".encode())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (error(404, "NoSuchBucket"), "NoSuchBucket"),
        (error(403, "InvalidAccessKeyId"), "AccessDenied"),
        (error(403, "SignatureDoesNotMatch"), "AccessDenied"),
        (error(403, "AccessDenied"), "AccessDenied"),
        (Answer(403, b""), "AccessDenied"),
        (error(400, "ExpiredToken"), "CredentialsExpired"),
        (error(403, "RequestTimeTooSkewed"), "ClockSkew"),
        (error(301, "PermanentRedirect"), "WrongRegion"),
        (error(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"), "WrongRegion"),
        (error(503, "SlowDown"), "StorageUnavailable"),
        (Answer(502, b"<html>"), "StorageUnavailable"),
        (Answer(200, b"<html>welcome"), "NotS3"),
        (Answer(404, b"<html>"), "NotS3"),
        (error(418, "Teapot"), "UnexpectedAnswer"),
        (Silence.UNRESOLVED, "EndpointNotFound"),
        (Silence.REFUSED, "EndpointUnreachable"),
        (Silence.UNREACHABLE, "EndpointUnreachable"),
        (Silence.TIMED_OUT, "EndpointTimeout"),
        (Silence.UNTRUSTED, "CertificateError"),
        (Silence.NOT_TLS, "CertificateError"),
        (Silence.GARBLED, "NotS3"),
    ],
)
def test_every_answer_has_a_reason_and_one_sentence(answer: Answer | Silence, reason: str) -> None:
    found = check.judge(answer, WHERE, KEYS)
    assert found is not None
    assert found.reason == reason
    assert re.fullmatch(r"[^\n]{20,300}", found.message)


def test_a_list_is_a_good_answer() -> None:
    assert check.judge(Answer(200, b"<ListBucketResult></ListBucketResult>"), WHERE, KEYS) is None


def test_the_right_region_is_told_where_the_server_knows_it() -> None:
    found = check.judge(error(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"), WHERE, KEYS)
    assert found is not None
    assert "its region is eu-west-1" in found.message


@pytest.mark.parametrize(
    ("mounter", "output", "reason"),
    [
        ("s3fs", "fuse: device not found, try 'modprobe fuse' first", "FuseUnavailable"),
        ("s3fs", "bucket or key not found(host=x) - result of checking service.", "NoSuchBucket"),
        ("s3fs", "Bad Request(host=x) - result of checking service.", "UnexpectedAnswer"),
        ("s3fs", "s3fs: There is no enough disk space for used as cache(or temporary) directory by s3fs.", "DiskFull"),
        ("rclone", 'Fatal error: exec: "fusermount3": executable file not found in $PATH', "FuseUnavailable"),
        ("rclone", "Error: unknown flag: --vfs-fast-fingerprint", "ClientTooOld"),
    ],
)
def test_a_clients_last_words_are_understood(mounter: str, output: str, reason: str) -> None:
    found = client(mounter=mounter).explain(f"noise\n{output}\nnoise")
    assert found is not None
    assert found.reason == reason
    assert client(mounter=mounter).explain("noise") is None


# --- what is not uploaded yet


def test_rclones_marks_are_counted_and_doubt_counts_as_dirty(tmp_path: Path) -> None:
    def unflushed(mounter: str) -> int:
        return S3().unflushed({"mounter": mounter}, cache=str(tmp_path))

    assert unflushed("rclone") == 0
    meta = tmp_path / "vfsMeta" / "s3" / "my-bucket" / "deep"
    meta.mkdir(parents=True)
    (meta / "clean").write_text('{"Dirty": false}')
    (meta / "dirty").write_text('{"Size": 3, "Dirty": true}')
    (meta / "torn").write_text('{"Si')
    assert unflushed("rclone") == 2
    assert unflushed("s3fs") == 0


# --- clients that are not in Debian: what they are told


def flags(mounter: str, *, read_only: bool = False, **parameters: str) -> dict[str, str]:
    made = S3().client({**MINIMAL, "mounter": mounter, **parameters}, read_only=read_only, credentials=KEYS).command(PLACE)
    return {name.removeprefix("--"): value for name, _, value in (a.partition("=") for a in made.argv if a.startswith("--"))}


def test_geesefs_waits_for_its_uploads_and_keeps_its_hands_off_the_bucket() -> None:
    found = flags("geesefs", uid="7", gid="8", umask="0027", read_only=True, prefix="/a/b/", region="eu-west-1")
    assert found["endpoint"] == "https://play.min.io"
    assert found["region"] == "eu-west-1"
    assert found["o"] == f"allow_other,default_permissions,fsname={PLACE.source},ro"
    assert (found["uid"], found["gid"], found["dir-mode"], found["file-mode"]) == ("7", "8", "0750", "0640")
    assert (found["setuid"], found["setgid"]) == ("0", "0")
    assert {"fsync-on-close", "no-expire-multipart", "no-specials"} <= found.keys()
    assert "subdomain" not in found
    made = client(mounter="geesefs", prefix="a/b").command(PLACE)
    assert made.argv[:2] == ("geesefs", "-f")
    assert made.argv[-2:] == ("my-bucket:a/b", PLACE.mountpoint)
    assert not made.takes_device


def test_geesefs_takes_no_more_memory_than_the_class_grants() -> None:
    assert flags("geesefs")["memory-limit"] == "16"
    roomy = S3().client({**MINIMAL, "mounter": "geesefs"}, read_only=False, credentials=KEYS)
    argv = roomy.command(msgspec.structs.replace(PLACE, memory=1 << 30)).argv
    assert "--memory-limit=512" in argv


def test_mount_s3_is_handed_the_device_of_a_mount_that_has_our_name() -> None:
    made = client(mounter="mount-s3", prefix="a/b", read_only=True, uid="0", gid="8").command(PLACE)
    assert made.argv[-2:] == ("my-bucket", "/dev/fd/3")
    assert made.takes_device
    assert made.read_only
    found = flags("mount-s3", prefix="a/b", read_only=True, uid="0", gid="8")
    assert found["prefix"] == "a/b/"
    assert found["endpoint-url"] == "https://play.min.io"
    assert {"force-path-style", "foreground", "allow-other"} <= found.keys()
    assert "uid" not in found, "it takes no zero; root is what it is without"
    assert found["gid"] == "8"
    assert not {"allow-delete", "allow-overwrite", "read-only"} & found.keys(), "a mount that others made cannot be told so"
    assert {"allow-delete", "allow-overwrite"} <= flags("mount-s3").keys()


@pytest.mark.parametrize("mounter", ["geesefs", "mount-s3"])
def test_their_credentials_are_in_a_profile_and_nowhere_else(mounter: str) -> None:
    given = msgspec.structs.replace(KEYS, session_token="to/ken+==", ca_file="/etc/ca.crt")
    made = client(mounter=mounter, credentials=given).command(PLACE)
    seen = [*made.argv, *made.environment, *made.environment.values(), repr(made)]
    (content,) = made.files.values()
    profile = configparser.ConfigParser(interpolation=None)
    profile.read_string(content.decode())
    for secret in (KEYS.access_key, KEYS.secret_key, "to/ken+=="):
        assert not any(secret in text for text in seen)
        assert secret in profile["default"].values()
    assert any("/etc/ca.crt" in text for text in seen)


# --- options of claims


@pytest.mark.parametrize(
    ("mounter", "own", "not_its_own"),
    [
        ("s3fs", "stat_cache_expire=5", "default_acl=public-read"),
        ("rclone", "dir-cache-time=5s", "vfs-cache-max-size=1Ti"),
        ("geesefs", "stat-cache-ttl=5s", "memory-limit=100000"),
        ("mount-s3", "metadata-ttl=5", "max-threads=64"),
    ],
)
def test_a_claim_sets_what_concerns_its_own_mount_alone(mounter: str, own: str, not_its_own: str) -> None:
    good = {**MINIMAL, "mounter": mounter, "claimOptions": own}
    assert providers.validate("s3", good) == ()
    assert providers.validate_class("s3", {"mounter": mounter, "options": f"{own},{not_its_own}"}) == ()
    (problem,) = providers.validate("s3", {**good, "claimOptions": not_its_own})
    assert problem.endswith("by a claim")
    name, _, value = own.partition("=")
    assert own in " ".join(client(mounter=mounter, claimOptions=own).command(PLACE).argv)
    of_class = f"{name}={value.replace('5', '7')}"
    both = " ".join(client(mounter=mounter, claimOptions=own, options=of_class).command(PLACE).argv)
    assert of_class in both
    assert own not in both


def test_the_readme_lists_the_options_of_claims_and_no_others() -> None:
    section = (
        Path(__file__)
        .parents[3]
        .joinpath("README.md")
        .read_text()
        .partition("| client | options of claims |")[2]
        .partition("\n\n")[0]
    )
    for row in section.splitlines()[2:]:
        mounter, *listed = re.findall(r"`([^`]+)`", row)
        kind = importlib.import_module(f"dynvol.mount.providers.s3.{mounter.replace('-', '_')}").KIND
        assert set(listed) - {"s3-storage-class"} == kind.claim_options - {"s3-storage-class"}
