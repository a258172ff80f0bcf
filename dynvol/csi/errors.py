"""What can go wrong with a call, and the one table that makes gRPC codes of it.

CsiProblem
├── InvalidRequest      the caller's fault: the same call will fail again
├── NotPublished        there is no such volume at that path
├── OperationPending    retryable: another operation on the volume is under way
├── ShuttingDown        retryable, from the process that comes next
├── MessageTooLarge     the caller's fault
├── NotServing          what CsiServer.check finds, never in a call
└── SocketProblem       at start, never in a call
    ├── SocketInUse     another process listens on it
    └── SocketUnusable  the path is too long, or holds something that is not a socket

The errors of `dynvol.mount` are in the table too: their messages say what to do and are passed on as they are.
"""

from __future__ import annotations

import errno
from typing import Final

from grpclib.const import Status

from dynvol.mount import errors as mount


class CsiProblem(Exception):
    """Root of the package's errors. The message is for whoever reads the pod's events."""


class InvalidRequest(CsiProblem): ...


class NotPublished(CsiProblem): ...


class OperationPending(CsiProblem): ...


class ShuttingDown(CsiProblem): ...


class MessageTooLarge(CsiProblem): ...


class NotServing(CsiProblem): ...


class SocketProblem(CsiProblem): ...


class SocketInUse(SocketProblem): ...


class SocketUnusable(SocketProblem): ...


_CODES: Final[dict[type[BaseException], Status]] = {
    InvalidRequest: Status.INVALID_ARGUMENT,
    NotPublished: Status.NOT_FOUND,
    OperationPending: Status.ABORTED,
    ShuttingDown: Status.UNAVAILABLE,
    MessageTooLarge: Status.RESOURCE_EXHAUSTED,
    mount.UnsafePath: Status.INVALID_ARGUMENT,
    mount.WrongMount: Status.FAILED_PRECONDITION,
    mount.InTheWay: Status.FAILED_PRECONDITION,
    mount.MountNotPermitted: Status.FAILED_PRECONDITION,
    mount.MountUnsupported: Status.FAILED_PRECONDITION,
    mount.MountBusy: Status.UNAVAILABLE,
    mount.MountError: Status.INTERNAL,
    mount.ExecutorProblem: Status.UNAVAILABLE,
}
"""Looked up by the nearest class. Kubelet takes ABORTED, UNAVAILABLE and RESOURCE_EXHAUSTED as "may be under way, ask again" and
all others as final for this attempt, upon which it removes what it prepared (pkg/volume/csi/csi_client.go, isFinalError)."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def code_of(error: BaseException) -> Status | None:
    """The code of an error that was foreseen, else None: a defect, to be logged with its trace."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return Status.RESOURCE_EXHAUSTED
    return next((_CODES[cls] for cls in type(error).__mro__ if cls in _CODES), None)
