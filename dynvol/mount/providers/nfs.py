"""A directory of an NFS server, by the kernel's own client.

There is no program that serves and none that could be sent a Secret: the server believes what the node says of its users
(AUTH_SYS), and keeps owner and mode of files itself. `dynvol.mount.nfs` mounts; here is what users may ask of that, and what
an error of the kernel means to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from dynvol.mount import nfs

from . import options
from .contract import Answer, Client, Command, Credentials, Finding, Place, Silence, Target, Unusable
from .options import Check

VERSIONS: Final = ("4.2", "4.1", "4.0")
TRUSTED: Final = ("4.1", "4.0")
"""Tried in this order where no version is named. Not 4.2: Linux has come to read by its READ_PLUS, which some servers get wrong
(nfs-ganesha 4.3: all zeros, and no error)."""
_KNOWN: Final = frozenset(
    ("server", "path", "version", "options", "claimOptions", "mounter", "allowedOptions", "anonymous", "uid", "gid", "umask")
)
"""The last three may come from the pod, for storage that knows no owners, and have no meaning here."""
_SERVER: Final = re.compile(
    r"(?P<host>[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(:(?P<port>[0-9]{1,5}))?", re.ASCII
)
_LONGEST_PATH: Final = 1024

HARD: Final = "hard"
SOFT: Final = "softerr"
_PATIENCE: Final = (HARD, SOFT)
_CACHING: Final[Mapping[str, Check]] = {
    **{name: options.integer(0, 3600) for name in ("acregmin", "acregmax", "acdirmin", "acdirmax", "actimeo")},
    "lookupcache": options.one_of("all", "none", "positive"),
    "noac": options.flag,
}
CLAIM_OPTIONS: Final[Mapping[str, Check]] = {
    **_CACHING,
    HARD: options.flag,
    SOFT: options.flag,
    "timeo": options.integer(10, 6000),
    "retrans": options.integer(0, 20),
    "rsize": options.integer(4096, 1 << 20),
    "wsize": options.integer(4096, 1 << 20),
}
"""What a claim may set: how long its programs wait, and how its own mount reads and writes."""
ALLOWED_OPTIONS: Final[Mapping[str, Check]] = {
    **CLAIM_OPTIONS,
    "nconnect": options.integer(1, 16),
    "nocto": options.flag,
    "noresvport": options.flag,
}
"""What a class may set. Not: `sec`, which needs daemons of the node that no mount pod reaches; addresses and ports, which would
evade what the class allows; locks and sharing, on which this provider relies."""


class NFS:
    secret_keys: tuple[str, ...] = ()
    optional_keys: tuple[str, ...] | None = ()
    serves_anyone = True
    sends_secrets = False
    in_kernel = True

    def validate(self, parameters: Mapping[str, str]) -> tuple[str, ...]:
        return (
            *options.unknown(parameters, known=_KNOWN),
            *_problems(parameters),
            *_option_problems(parameters.get("claimOptions", ""), allowed=CLAIM_OPTIONS, where="a claim"),
            *self.validate_class(parameters),
        )

    def validate_class(self, parameters: Mapping[str, str]) -> tuple[str, ...]:
        return (
            *(f"parameter {key} has no meaning for provider nfs" for key in ("mounter", "allowedOptions") if parameters.get(key)),
            *_option_problems(parameters.get("options", ""), allowed=ALLOWED_OPTIONS, where="a class"),
        )

    def target(self, parameters: Mapping[str, str]) -> Target:
        """What of its path a class can pin, as it can buckets, is the first name."""
        path = parameters.get("path", "")
        return Target(endpoint=f"nfs://{parameters.get('server', '')}", bucket=path.strip("/").partition("/")[0])

    def unflushed(self, parameters: Mapping[str, str], *, cache: str) -> int:
        """Nothing is ever on the disk; what the kernel has in memory goes with it."""
        return 0

    def client(self, parameters: Mapping[str, str], *, read_only: bool, credentials: Credentials) -> Client:
        if found := self.validate(parameters):
            raise Unusable(Finding("InvalidParameters", "; ".join(found)))
        host, port = _split(parameters["server"])
        version = parameters.get("version", "")
        return _Mount(
            host=host,
            port=port,
            path=parameters["path"],
            versions=(version,) if version else TRUSTED,
            options=mount_options(parameters, read_only=read_only),
            read_only=read_only,
        )


class _Mount(msgspec.Struct, frozen=True):
    """`contract.Client`. The kernel refuses by itself what is not there."""

    host: str
    port: int
    path: str
    versions: tuple[str, ...]
    options: str
    read_only: bool

    @property
    def checks_storage(self) -> bool:
        return True

    def command(self, place: Place) -> Command:
        source = nfs.source(place.source, self.path)
        argv = nfs.served(
            place.mountpoint,
            source=source,
            server=self.host,
            port=self.port,
            read_only=self.read_only,
            options=[f"vers={version},{self.options}" for version in self.versions],
        )
        return Command(argv, {}, {}, source=source, read_only=self.read_only, in_kernel=True)

    def check(self, place: Place, *, now: float) -> Command:
        return Command(nfs.command("reach", self.host, str(self.port)), {}, {})

    def judge(self, answer: Answer | Silence) -> Finding | None:
        return None

    def explain(self, output: str) -> Finding | None:
        found = _LAST_WORDS.search(output)
        if found is None:
            return None
        reason, message = _MEANINGS.get(found["error"], _OTHER)
        where = f"{self.host}:{self.port}"
        told = message.format(where=where, path=self.path, versions=" or ".join(self.versions), words=found["words"][:200])
        return Finding(reason, told, lasting=reason != _SILENT)


def mount_options(parameters: Mapping[str, str], *, read_only: bool) -> str:
    """Of parameters in which `validate` found nothing. What can lose nothing does not wait for ever (README, "NFS")."""
    chosen = options.chosen(parameters)
    asked = (options.parse(parameters.get(key, "")) for key in ("options", "claimOptions"))
    patience = next((name for given in asked for name in _PATIENCE if name in given), SOFT if read_only else HARD)
    rest = {name: value for name, value in chosen.items() if name not in _PATIENCE}
    return ",".join(("sec=sys", patience, *(f"{name}={value}" if value else name for name, value in sorted(rest.items()))))


def _problems(parameters: Mapping[str, str]) -> Iterator[str]:
    server, path, version = (parameters.get(key, "") for key in ("server", "path", "version"))
    match = _SERVER.fullmatch(server)
    if match is None or not 0 < _split(server)[1] < 1 << 16:
        yield f"spec.nfsConfig.server: {server[:64]!r} must be a host or an address, and a port if need be: files.example.com"
    if not path.startswith("/") or len(path.encode(errors="replace")) > _LONGEST_PATH:
        yield f"spec.nfsConfig.path: {path[:64]!r} must begin with a slash, and have at most {_LONGEST_PATH} bytes"
    elif not path.isprintable() or any(name in (".", "..") for name in path.split("/")):
        yield f"spec.nfsConfig.path: {path[:64]!r} must not have . or .. as a name, or control characters"
    if version and version not in VERSIONS:
        yield (
            f"spec.nfsConfig.version: {version[:16]!r} must be one of {', '.join(VERSIONS)}; older ones need daemons "
            "on the node, for locks and ports, that no mount pod can count on"
        )
    yield from options.anonymity_problems(parameters)


def _option_problems(text: str, *, allowed: Mapping[str, Check], where: str) -> list[str]:
    both = options.parse(text).keys() >= set(_PATIENCE)
    return [
        *(f"{problem} ({where})" for problem in options.problems(text, allowed=allowed, client="nfs")),
        *([f"mount options {HARD!r} and {SOFT!r} exclude each other"] if both else []),
    ]


def _split(server: str) -> tuple[str, int]:
    """Host, without brackets, and port of what `_SERVER` matches."""
    match = _SERVER.fullmatch(server)
    assert match is not None
    return match["host"].strip("[]"), int(match["port"] or nfs.PORT)


_LAST_WORDS: Final = re.compile(r"^(?P<error>E[A-Z0-9]+): (?P<words>.*)$", re.MULTILINE)
_SILENT: Final = "EndpointTimeout"
_OTHER: Final = ("MountRefused", "the kernel cannot mount {path} of {where}: {words}")
_UNREACHABLE: Final = ("EndpointUnreachable", "{where} cannot be reached from this node; check that it is up, and the network")
_DENIED: Final = (
    "AccessDenied",
    "{where} does not let this node mount {path}; correct its exports: it sees the address of the mount pod, or of the node",
)
_MEANINGS: Final[Mapping[str, tuple[str, str]]] = {
    "ENODEV": (
        "KernelWithoutNFS",
        "this node's kernel has no NFS client; load its module nfsv4 (modprobe nfsv4), or install the package of its modules",
    ),
    "EPROTONOSUPPORT": (
        "VersionNotSupported",
        "{where} or this node's kernel does not speak NFS {versions}; name another version, or have it enabled",
    ),
    "EACCES": _DENIED,
    "EPERM": _DENIED,
    "ENOENT": (
        "PathNotFound",
        "{where} exports no directory {path} to this node; create it, or correct the claim, or the server's exports: of what a "
        "node may not mount, most servers say that it is not there",
    ),
    "ELOOP": ("PathIsLink", "{path} at {where} leads through a symbolic link; name the directory itself: {words}"),
    "ENOTDIR": ("PathNotFound", "{path} at {where} is no directory; correct the claim"),
    "EAI": ("EndpointNotFound", "the host name of {where} does not resolve on this node; correct it"),
    "ECONNREFUSED": _UNREACHABLE,
    "EHOSTUNREACH": _UNREACHABLE,
    "ENETUNREACH": _UNREACHABLE,
    "EPROTO": ("NotNFS", "what listens at {where} does not speak NFS 4; correct the port"),
    "ETIMEDOUT": (_SILENT, "{where} does not answer; check it and firewalls on the way"),
}
