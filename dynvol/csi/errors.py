"""What can go wrong with kubelet's calls, and the one table that makes gRPC codes of it.

CsiProblem
├── InvalidRequest   the caller's fault: the same call will fail again
├── NotPublished     there is no such volume at that path
└── NotServing       what CsiServer.check finds, never in a call

The errors of `dynvol.mount` are in the table too: their messages say what to do and are passed on as they are.
"""

from __future__ import annotations

from typing import Final

from grpclib.const import Status

from dynvol.api import names
from dynvol.mount import errors as mount
from dynvol.rpc.errors import Codes


class CsiProblem(Exception):
    """Root of the package's errors. The message is for whoever reads the pod's events."""


class InvalidRequest(CsiProblem): ...


class NotPublished(CsiProblem): ...


class NotServing(CsiProblem): ...


CODES: Final = Codes(
    {
        InvalidRequest: Status.INVALID_ARGUMENT,
        NotPublished: Status.NOT_FOUND,
        mount.UnsafePath: Status.INVALID_ARGUMENT,
        mount.WrongMount: Status.FAILED_PRECONDITION,
        mount.InTheWay: Status.FAILED_PRECONDITION,
        mount.MountNotPermitted: Status.FAILED_PRECONDITION,
        mount.MountUnsupported: Status.FAILED_PRECONDITION,
        mount.MountBusy: Status.UNAVAILABLE,
        mount.MountError: Status.INTERNAL,
        mount.ExecutorProblem: Status.UNAVAILABLE,
    },
    unimplemented=f"{names.DRIVER} serves inline volumes of pods only",
)
"""Kubelet takes ABORTED, UNAVAILABLE and RESOURCE_EXHAUSTED as "may be under way, ask again" and all others as final for this
attempt, upon which it removes what it prepared (pkg/volume/csi/csi_client.go, isFinalError)."""
