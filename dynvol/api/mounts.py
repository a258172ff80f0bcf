"""What the node process and a mount pod say to each other: two annotations of the mount pod, JSON lists of these types.

The node process alone writes `names.WANTED_ANNOTATION`, the mounter alone `names.REPORT_ANNOTATION`. Either may be newer than the
other: fields that one does not know are ignored, parameters are not (a mount without one would be another mount), and a new field
has a default that means what was meant before. The hash of a mount that uses nothing new never changes, or upgrades would remount
it: `unit/test_skew.py` holds what is frozen. Nothing in here is secret.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec


class Phase(StrEnum):
    """Of one mount. What is reported to users has the same words."""

    PENDING = "Pending"
    """Wanted, and no one has begun."""
    MOUNTING = "Mounting"
    MOUNTED = "Mounted"
    UNMOUNTING = "Unmounting"
    """No longer wanted; being flushed and unmounted."""
    FAILED = "Failed"
    """Not mounted; tried again with back-off."""
    CONFLICT = "Conflict"
    """Not tried: an older claim has the same or a nested mountpoint in this pod."""

    @classmethod
    def _missing_(cls, value: object) -> Phase:
        """A mounter that is newer may know more phases. Whatever they mean, it is not one that this version can count on."""
        return cls.MOUNTING


SOURCE_PREFIX: Final = "dynvol-"
"""All that a mounter mounts has a source that begins so (`WantedMount.source`)."""
SHARED_SOURCE: Final = f"{SOURCE_PREFIX}shared-"
"""And so what may be several claims' at once. No claim's uid is "shared"."""
UNFLUSHED: Final = "UnflushedData"
"""The reason of a mount that is gone or going, while files of it wait for their way into the storage."""


class WantedMount(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One bucket (or other storage) at one path of one workload pod.

    `path` is relative to the mounter's root: `<pod uid>/<mountpoint without its leading slash>`. A mounter that serves no pods has
    an empty `pod_uid`, and paths that begin below its root. `spec_hash` covers everything that
    makes two mounts different, so a changed hash at the same path means: unmount, then mount anew. `source` is the name under
    which the mount shows in the mount table, whoever looks.
    """

    claim: str
    """namespace/name, for messages."""
    claim_uid: str
    pod_uid: str
    path: str
    provider: str
    spec_hash: str
    read_only: bool = False
    credentials: str = ""
    """Which of the mounter's sets of credentials; empty: the one that is for all mounts that name none. In a mount pod a set is a
    Secret of the claim's namespace, by name."""
    parameters: dict[str, str] = {}
    """Non-secret: for s3 `bucket`, `endpoint`, `prefix`, `region`, `pathStyle`, `uid`, `gid`, `umask`, `mounter`, `options`."""
    client: str = ""
    """Equal for the mounts that one client is to serve, of whichever claims: they differ in nothing but claim, pod and path. Empty:
    the claim has a client of its own."""
    users: tuple[str, ...] = ()
    """Never told, but written on the disk beside what such a client caches: the keys of all whose data that may be."""

    @property
    def key(self) -> str:
        return f"{self.claim_uid}/{self.pod_uid}"

    @property
    def owners(self) -> frozenset[str]:
        """The keys of those whose data its cache may hold."""
        return frozenset(self.users or (self.key,))

    @property
    def source(self) -> str:
        return f"{SHARED_SOURCE}{self.client}" if self.client else self.claims_source

    @property
    def claims_source(self) -> str:
        """What a mounter calls it that does not know of `client`: one that is older, or serves what it was told before."""
        return f"{SOURCE_PREFIX}{self.claim_uid}-{self.spec_hash}"


class MountReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What became of one mount. An entry stays until its mount is gone from the mount table, then it is dropped."""

    claim_uid: str
    pod_uid: str
    path: str
    spec_hash: str
    phase: Phase
    reason: str = ""
    """CamelCase, stable: `NoSuchBucket`, `AccessDenied`, `EndpointUnreachable`, `ClientExited`, `UnflushedData`, …"""
    message: str = ""
    """One sentence for the user: what is wrong and what to do."""
    time: str = ""
    """RFC 3339, of the last change of phase or reason."""
    restarts: int = 0
    """How often the client of this mount was started again since the mounter runs."""

    @property
    def key(self) -> str:
        return f"{self.claim_uid}/{self.pod_uid}"


OWN_SECRETS: Final = "claim-secret."
"""What all keys begin with that a mount pod's Secret copy has from Secrets of claims. Keys of the class's Secret never do."""


def own_secret_prefix(secret: str) -> str:
    """What the keys begin with that come from one of them. Its name would leave no room for keys of their own."""
    return f"{OWN_SECRETS}{hashlib.sha256(secret.encode()).hexdigest()[:32]}."


def overlap(one: str, other: str) -> bool:
    """Whether two normal paths are the same, or one lies below the other. Both absolute, or both relative."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


_LONGEST_REASON = 128
"""Of an event (core/v1 validation); conditions take more."""
_LONGEST_MESSAGE = 1024

_wanted = msgspec.json.Decoder(list[WantedMount])
_reports = msgspec.json.Decoder(list[MountReport])


class MalformedAnnotation(ValueError):
    """An annotation of a mount pod is not the JSON that it should be. Whoever reads it keeps what it has."""


def decode_wanted(text: str) -> list[WantedMount]:
    """Raises `MalformedAnnotation`; an empty or missing annotation is an empty list."""
    try:
        return _wanted.decode(text) if text else []
    except (msgspec.MsgspecError, RecursionError) as error:
        raise MalformedAnnotation(f"wanted mounts: {error}") from error


def decode_reports(text: str) -> list[MountReport]:
    """Raises `MalformedAnnotation`; an empty or missing annotation is an empty list. Reasons and messages are cut to what a status
    takes: a mount pod may have been taken over."""
    try:
        return [_bounded(report) for report in _reports.decode(text)] if text else []
    except (msgspec.MsgspecError, RecursionError) as error:
        raise MalformedAnnotation(f"mount report: {error}") from error


def _bounded(report: MountReport) -> MountReport:
    if len(report.reason) <= _LONGEST_REASON and len(report.message) <= _LONGEST_MESSAGE:
        return report
    return msgspec.structs.replace(report, reason=report.reason[:_LONGEST_REASON], message=report.message[:_LONGEST_MESSAGE])


def encode(entries: Sequence[WantedMount] | Sequence[MountReport]) -> str:
    """Compact JSON in a stable order, so that equal content is an equal string."""
    return msgspec.json.encode(sorted(entries, key=lambda e: (e.path, e.claim_uid)), order="deterministic").decode()
