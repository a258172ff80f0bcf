"""What the provider nfs accepts, what it asks of the kernel, and what it makes of the kernel's answers. Nothing is mounted here."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dynvol.api import names
from dynvol.api.claim import ClaimSpec, LabelSelector, NFSConfig
from dynvol.api.providerclass import ClassSpec
from dynvol.mount import nfs, providers
from dynvol.mount.providers import pins
from dynvol.mount.providers.contract import Client, Command, Credentials, Place, Unusable
from dynvol.mount.providers.nfs import NFS, mount_options
from dynvol.webhook.rules.classes import review_class

HOME = {"server": "files.example.com", "path": "/exports/home"}
CLAIM = ClaimSpec(mountpoint="/data", selector=LabelSelector(), nfs_config=NFSConfig("files.example.com", "/exports/home"))
PINNED = {names.ALLOWED_ENDPOINTS_PARAMETER: "nfs://files.example.com"}
PLACE = Place(source="dynvol-uid-hash", mountpoint="/run/mnt", secrets="/run/secrets", cache="/var/cache/x")


def client(parameters: Mapping[str, str] = HOME, *, read_only: bool = False) -> Client:
    return NFS().client(parameters, read_only=read_only, credentials=Credentials())


def words(parameters: Mapping[str, str] = HOME, *, read_only: bool = False) -> list[str]:
    command = client(parameters, read_only=read_only).command(PLACE)
    assert command.in_kernel and command.read_only == read_only
    assert not command.files and not command.environment
    return list(command.argv[len(nfs.command()) :])


def test_a_server_and_a_path_are_enough() -> None:
    assert providers.validate("nfs", HOME) == ()
    options = [f"vers={version},sec=sys,hard" for version in ("4.1", "4.0")]
    assert words() == ["serve", "nfs4", "dynvol-uid-hash:/exports/home", "/run/mnt", "rw", "files.example.com", "2049", *options]


def test_a_version_that_is_named_is_the_only_one_tried() -> None:
    assert words(HOME | {"version": "4.1"})[7:] == ["vers=4.1,sec=sys,hard"]


@pytest.mark.parametrize(
    ("server", "host", "port"),
    [("10.0.0.5", "10.0.0.5", "2049"), ("files:20049", "files", "20049"), ("[2001:db8::5]:1", "2001:db8::5", "1")],
)
def test_a_server_may_have_a_port(server: str, host: str, port: str) -> None:
    assert words(HOME | {"server": server})[5:7] == [host, port]


def test_what_may_lose_data_waits_for_its_server_and_what_cannot_does_not_wait_for_ever() -> None:
    assert mount_options(HOME, read_only=False).split(",") == ["sec=sys", "hard"]
    assert mount_options(HOME, read_only=True).split(",") == ["sec=sys", "softerr"]


def test_a_claim_chooses_how_long_to_wait_unless_its_class_has() -> None:
    of_claim = {"claimOptions": "softerr,timeo=100,retrans=1"}
    assert mount_options(of_claim, read_only=False) == "sec=sys,softerr,retrans=1,timeo=100"
    assert mount_options(of_claim | {"options": "hard,timeo=600"}, read_only=False) == "sec=sys,hard,retrans=1,timeo=600"


@pytest.mark.parametrize(
    "option",
    [
        "addr=10.0.0.1",
        "port=1",
        "sec=krb5",
        "proto=udp",
        "sharecache",
        "nolock",
        "soft",
        "vers=3",
        "clientaddr=1.2.3.4",
        "suid",
        "dev",
    ]
    + ["hard=1", "timeo=x", "rsize=1", "actimeo=-1", "softerr,hard", "lookupcache=none\n", "x" * 5000],
)
def test_options_that_are_not_harmless_are_refused_of_class_and_claim(option: str) -> None:
    assert providers.validate("nfs", HOME | {"claimOptions": option})
    assert providers.validate_class("nfs", {"options": option})


@pytest.mark.parametrize("option", ["nconnect=4", "nocto", "noresvport"])
def test_what_costs_others_or_weakens_the_mount_is_for_the_class_alone(option: str) -> None:
    assert providers.validate("nfs", HOME | {"claimOptions": option})
    assert providers.validate("nfs", HOME | {"options": option}) == ()


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"server": ""}, "spec.nfsConfig.server"),
        ({"server": "a,addr=b"}, "spec.nfsConfig.server"),
        ({"server": "a:70000"}, "spec.nfsConfig.server"),
        ({"server": "a:0"}, "spec.nfsConfig.server"),
        ({"path": "exports"}, "spec.nfsConfig.path"),
        ({"path": "/a/../b"}, "spec.nfsConfig.path"),
        ({"path": "/a\nb"}, "spec.nfsConfig.path"),
        ({"path": "/" + "ä" * 600}, "spec.nfsConfig.path"),
        ({"version": "3"}, "spec.nfsConfig.version"),
        ({"mounter": "ganesha"}, "mounter has no meaning"),
        ({"allowedOptions": "x"}, "allowedOptions has no meaning"),
        ({"bucket": "x"}, 'does not know the parameter "bucket"'),
    ],
)
def test_what_is_wrong_is_said_of_the_field(changed: dict[str, str], problem: str) -> None:
    (found,) = providers.validate("nfs", HOME | changed)
    assert problem in found
    with pytest.raises(Unusable):
        client(HOME | changed)


def test_owners_that_pods_bring_are_no_problem_and_change_nothing() -> None:
    owner = {"uid": "1000", "gid": "1000", "umask": "0002"}
    assert words(HOME | owner) == words()


def test_a_class_needs_no_secret() -> None:
    verdict = review_class(ClassSpec(provider="nfs", parameters=PINNED))
    assert verdict.problems == verdict.warnings == ()


def test_a_class_names_the_servers_that_the_nodes_kernel_may_talk_to() -> None:
    """Any server could send it what it likes, and no container is between them."""
    for parameters in ({}, {names.ALLOWED_ENDPOINTS_PARAMETER: ""}):
        of_class = ClassSpec(provider="nfs", parameters=parameters)
        assert pins.refusal(of_class, CLAIM, namespace="n").startswith("names no endpoints in its parameter allowed-endpoints")
        problems = "; ".join(review_class(of_class).problems)
        assert "allowed-endpoints is missing: provider nfs has the node's kernel talk to" in problems
        assert "nfs://files.example.com" in problems
    assert not pins.refusal(ClassSpec(provider="nfs", parameters=PINNED), CLAIM, namespace="n")


@pytest.mark.parametrize(
    ("key", "pattern", "allowed"),
    [
        (names.ALLOWED_ENDPOINTS_PARAMETER, "nfs://files.example.com", True),
        (names.ALLOWED_ENDPOINTS_PARAMETER, "nfs://files.example.com:2049", True),
        (names.ALLOWED_ENDPOINTS_PARAMETER, "nfs://*.example.com", True),
        (names.ALLOWED_ENDPOINTS_PARAMETER, "nfs://files.example.com:20049", False),
        (names.ALLOWED_ENDPOINTS_PARAMETER, "nfs://other.example.com", False),
        (names.ALLOWED_ENDPOINTS_PARAMETER, "https://files.example.com", False),
        (names.ALLOWED_BUCKETS_PARAMETER, "exports", True),
        (names.ALLOWED_BUCKETS_PARAMETER, "home", False),
    ],
)
def test_a_class_pins_servers_and_exports(key: str, pattern: str, allowed: bool) -> None:
    of_class = ClassSpec(provider="nfs", parameters=PINNED | {key: pattern})
    assert not list(pins.problems(of_class.parameters))
    assert (pins.refusal(of_class, CLAIM, namespace="n") == "") == allowed


def test_a_claims_options_are_those_of_its_configuration_and_its_own() -> None:
    config = NFSConfig("files.example.com", "/exports/home", version="4.1", options="softerr")
    spec = ClaimSpec(mountpoint="/data", selector=LabelSelector(), nfs_config=config, mount_options="timeo=100")
    assert spec.provider == "nfs"
    assert spec.parameters == HOME | {"version": "4.1", "claimOptions": "softerr,timeo=100"}


@pytest.mark.parametrize(
    ("output", "reason", "lasting"),
    [
        ("ENODEV: No such device\n", "KernelWithoutNFS", True),
        ("EPROTONOSUPPORT: Protocol not supported\n", "VersionNotSupported", True),
        ("EACCES: Permission denied\n", "AccessDenied", True),
        ("ENOENT: No such file or directory\n", "PathNotFound", True),
        ("ELOOP: it leads to /exports/other\n", "PathIsLink", True),
        ("EAI: [Errno -2] Name or service not known\n", "EndpointNotFound", True),
        ("ECONNREFUSED: Connection refused\n", "EndpointUnreachable", True),
        ("EPROTO: Protocol error\n", "NotNFS", True),
        ("ETIMEDOUT: timed out\n", "EndpointTimeout", False),
        ("EIO: Input/output error\n", "MountRefused", True),
    ],
)
def test_what_the_kernel_says_becomes_a_finding(output: str, reason: str, lasting: bool) -> None:
    finding = client().explain(output)
    assert finding is not None
    assert (finding.reason, finding.lasting) == (reason, lasting)
    assert "{" not in finding.message


def test_silence_is_no_finding() -> None:
    assert client().explain("") is None


def test_whether_the_server_is_there_is_asked_by_a_program() -> None:
    asked = client().check(PLACE, now=0.0)
    assert isinstance(asked, Command)
    assert asked.argv[-3:] == ("reach", "files.example.com", "2049")
