"""What can go wrong with a call, and the one table that makes gRPC codes of it.

ServiceProblem
├── InvalidRequest   the caller's fault: the same call will fail again
├── NothingMounted   there is no mount at that path
├── PathTaken        another mount is there, or right above or below
├── Withdrawn        retryable: the path was unmounted while its mount was waited for
└── MountFailed      what the storage, its client or the kernel says; the code follows from the reason

RecordsUnreadable    at start, never in a call
RootInUse            likewise: another service has this root, or this state
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from grpclib.const import Status

from dynvol.mount import errors as mount
from dynvol.rpc.errors import Codes


class ServiceProblem(Exception):
    """Root of the package's errors. The message is for whoever called."""


class InvalidRequest(ServiceProblem): ...


class NothingMounted(ServiceProblem): ...


class PathTaken(ServiceProblem): ...


class Withdrawn(ServiceProblem): ...


class MountFailed(ServiceProblem):
    """`reason` is that of a mount's report."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RecordsUnreadable(Exception): ...


class RootInUse(Exception): ...


CODE_OF_REASON: Final[Mapping[str, Status]] = {
    "AccessDenied": Status.PERMISSION_DENIED,
    "CertificateError": Status.FAILED_PRECONDITION,
    "ClientExited": Status.UNAVAILABLE,
    "ClientMissing": Status.FAILED_PRECONDITION,
    "ClientSlow": Status.UNAVAILABLE,
    "ClientStuck": Status.UNAVAILABLE,
    "ClientTooOld": Status.FAILED_PRECONDITION,
    "ClockSkew": Status.FAILED_PRECONDITION,
    "CredentialsExpired": Status.UNAUTHENTICATED,
    "CredentialsLost": Status.UNAUTHENTICATED,
    "DiskFull": Status.RESOURCE_EXHAUSTED,
    "EndpointNotFound": Status.UNAVAILABLE,
    "EndpointTimeout": Status.UNAVAILABLE,
    "EndpointUnreachable": Status.UNAVAILABLE,
    "FuseUnavailable": Status.FAILED_PRECONDITION,
    "InvalidMountpoint": Status.INVALID_ARGUMENT,
    "InvalidParameters": Status.INVALID_ARGUMENT,
    "KernelWithoutNFS": Status.FAILED_PRECONDITION,
    "MountRefused": Status.FAILED_PRECONDITION,
    "MounterFailed": Status.INTERNAL,
    "MountpointInTheWay": Status.FAILED_PRECONDITION,
    "MountpointTaken": Status.ALREADY_EXISTS,
    "NoSuchBucket": Status.NOT_FOUND,
    "NotNFS": Status.FAILED_PRECONDITION,
    "NotS3": Status.FAILED_PRECONDITION,
    "PathIsLink": Status.FAILED_PRECONDITION,
    "PathNotFound": Status.NOT_FOUND,
    "PodDirectoryMissing": Status.FAILED_PRECONDITION,
    "SecretKeyMissing": Status.UNAUTHENTICATED,
    "SecretMalformed": Status.INVALID_ARGUMENT,
    "SessionTokenUnsupported": Status.INVALID_ARGUMENT,
    "StorageRefused": Status.FAILED_PRECONDITION,
    "StorageSilent": Status.UNAVAILABLE,
    "StorageTimeout": Status.UNAVAILABLE,
    "StorageUnavailable": Status.UNAVAILABLE,
    "UnexpectedAnswer": Status.FAILED_PRECONDITION,
    "UnknownProvider": Status.INVALID_ARGUMENT,
    "VersionNotSupported": Status.FAILED_PRECONDITION,
    "WrongRegion": Status.FAILED_PRECONDITION,
}
"""A reason that is not here, of a provider from outside, becomes UNKNOWN."""


def _of_failure(problem: MountFailed) -> Status:
    return CODE_OF_REASON.get(problem.reason, Status.UNKNOWN)


CODES: Final = Codes(
    {
        InvalidRequest: Status.INVALID_ARGUMENT,
        NothingMounted: Status.NOT_FOUND,
        PathTaken: Status.ALREADY_EXISTS,
        Withdrawn: Status.ABORTED,
        MountFailed: _of_failure,
        mount.MountProblem: Status.INTERNAL,
        mount.ExecutorProblem: Status.UNAVAILABLE,
    },
    unimplemented="this is the mounter's service, dynvol.mounter.v1.Mounter",
)
