"""What a provider must be able to do, and the values that pass between it and the mounter.

The classes are msgspec Structs and not dataclasses although nothing decodes them: the mounter starts under a limit of a
hundredth of a core, where making one dataclass costs fifty milliseconds of waiting and a Struct one.

Where the kernel itself serves (nfs), a small program stands for the mount, as if it served (`Command.in_kernel`). A provider whose
volumes others mount (pvc) never meets the mounter: its `client` raises `Unusable`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from signal import Signals
from typing import Final, Protocol

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """Why a mount does not work."""

    reason: str
    """CamelCase and stable, as in `MountReport.reason`."""
    message: str
    """One sentence for the user: what is wrong and what to do. Never holds a credential."""
    lasting: bool = True
    """It will not heal without someone acting, so hurrying the next attempt is useless."""
    harmless: bool = False
    """What is mounted works all the same."""


DISK_FULL: Final = Finding(
    "DiskFull",
    "the node's disk below /var/lib/dynamic is full, or nearly so, and clients keep there what is being read and written; "
    "make room, and it is tried again by itself",
    lasting=False,
)


class Unusable(Exception):
    """A mount cannot even be tried."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


class Credentials(msgspec.Struct, frozen=True):
    """A Secret's values, read anew for every start of a client. `repr()` shows none of them."""

    whose: str = "the class's Secret"
    """What messages call the Secret."""
    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""
    ca_file: str = ""
    """Path of a PEM bundle to trust instead of the system's; empty if the Secret has none."""
    values: Mapping[str, str] = {}
    """All keys of the Secret, those above too, for providers whose claims name keys themselves."""

    def __repr__(self) -> str:
        return "Credentials(…)"


class Target(msgspec.Struct, frozen=True):
    """What a mount reaches with a class's credentials, for the class to allow or not."""

    endpoint: str
    """`scheme://host[:port]`, the default one spelt out."""
    bucket: str


class Place(msgspec.Struct, frozen=True):
    """Where a client works. All paths are the mounter's own choice: no text of a user is in them."""

    source: str
    """The name under which the mount must show in the mount table."""
    mountpoint: str
    secrets: str
    """Directory in memory, of this client alone."""
    cache: str
    """Directory on disk, of this client alone. Survives the client and the mounter."""
    memory: int | None = None
    """Bytes that the client should make do with: its share of what the class grants. None if that is unlimited."""
    newer: tuple[str, ...] = ()
    """Caches of clients that took this one's place. What was written through them is newer than what still waits in `cache`."""


DEVICE: Final = "/dev/fd/3"
"""Where a program finds the FUSE device that the mounter has opened for it."""


class Command(msgspec.Struct, frozen=True):
    """A program that serves a file system in the foreground until it is unmounted or gets SIGTERM; or one that takes a look."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    """All of it: nothing is inherited."""
    files: Mapping[str, bytes]
    """Written 0600 into `Place.secrets` before the start, by name; removed when the client has ended."""
    takes_device: bool = False
    """The program does not mount: the mounter does, under the right name, and the program serves `DEVICE`."""
    source: str = ""
    """What the mount table shows of the mount, where that is more than `Place.source`. What shows otherwise is not it."""
    read_only: bool = False
    """How the mounter mounts then; and of what the kernel serves, that there is nothing to flush."""
    in_kernel: bool = False
    """The program mounts and unmounts, and the kernel serves. So what is mounted may hang while the program is well, and goes on
    when it is killed."""
    forgets_on: Signals | None = None
    """What makes the program look anew at directories that it knows."""
    prepare: Callable[[], None] | None = None
    """Called before each start. May read and write what is in `Place.cache`, and take as long as that takes."""

    def __repr__(self) -> str:
        return f"Command(argv={self.argv!r}, files={sorted(self.files)!r})"


class Request(msgspec.Struct, frozen=True):
    """One HTTP GET that shows whether the storage is there and may be used."""

    tls: bool
    host: str
    port: int
    target: str
    headers: Mapping[str, str]
    ca_file: str = ""

    def __repr__(self) -> str:
        return f"Request({self.host}:{self.port}, {self.target!r})"


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes


class Silence(Enum):
    """Why there was no HTTP answer."""

    UNRESOLVED = "the name does not resolve"
    REFUSED = "the connection is refused"
    UNREACHABLE = "there is no route"
    UNTRUSTED = "the certificate is not trusted"
    NOT_TLS = "it does not speak TLS"
    TIMED_OUT = "it does not answer in time"
    GARBLED = "it does not speak HTTP"


class Client(Protocol):
    """One mount's program: what the mounter asks of it. No method does I/O except where said."""

    @property
    def checks_storage(self) -> bool:
        """Whether the program itself refuses to serve storage that is not there. If not, `check` goes before every start."""

    def command(self, place: Place) -> Command: ...

    def check(self, place: Place, *, now: float) -> Request | Command | None:
        """How to see whether the storage is there: a request, signed at Unix time `now`, whose answer `judge` understands; or a
        program that ends with 0 if it is, else with last words for `explain`. None if there is nothing to ask. Only `secrets` of
        `place` is the check's own."""

    def judge(self, answer: Answer | Silence) -> Finding | None:
        """What the answer to a request means; None if all is well."""

    def explain(self, output: str) -> Finding | None:
        """What the program's last words mean; None if they say nothing that is known."""


class Provider(Protocol):
    @property
    def secret_keys(self) -> tuple[str, ...]:
        """The keys without which a class's Secret is of no use."""

    @property
    def optional_keys(self) -> tuple[str, ...] | None:
        """Further keys that are read; None if it is the claims that name them, so that any may be."""

    @property
    def serves_anyone(self) -> bool:
        """Whether there is storage that wants no credentials, so that a class may name no Secret. Mounts for which none is named
        have the parameter `anonymous`, with the value `true`."""

    @property
    def sends_secrets(self) -> bool:
        """Whether the storage's server gets the secret itself, rather than what it signed. Whoever may name the server then gets
        it too, so classes must say which servers are meant."""

    @property
    def in_kernel(self) -> bool:
        """Whether it is the node's kernel that talks to the storage's server. A hostile one would attack all of the node, so here
        too classes must say which servers are meant."""

    def validate(self, parameters: Mapping[str, str]) -> tuple[str, ...]: ...

    def validate_class(self, parameters: Mapping[str, str]) -> tuple[str, ...]: ...

    def target(self, parameters: Mapping[str, str]) -> Target:
        """Of any parameters, also those that `validate` finds fault with: what is missing or malformed is as it is."""

    def unflushed(self, parameters: Mapping[str, str], *, cache: str) -> int:
        """How many files in a client's cache (`Place.cache`), written and closed, are not in the storage yet. Needs no credentials,
        and works after the client has died. Reads the directory, so it may block on the disk."""

    def client(self, parameters: Mapping[str, str], *, read_only: bool, credentials: Credentials) -> Client:
        """Raises `Unusable`: for parameters that `validate` finds fault with, and for credentials that no client could hold."""
