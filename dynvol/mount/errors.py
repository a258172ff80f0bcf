"""What can go wrong with mounts, sorted by who has to act.

MountProblem
├── MountError (also an OSError)   the kernel refused a call; says which, with which arguments
│   ├── MountBusy                  retryable: something still uses it
│   ├── NotMounted                 there was nothing to unmount: most callers take it as success
│   ├── MountNotPermitted          terminal: a capability, a seccomp rule or a locked mount is in the way
│   └── MountUnsupported           terminal for this call: the kernel is too old, use the fallback
├── UnsafePath (also a ValueError) the caller's fault: the path is not one to be resolved below a root
├── InTheWay                       terminal until someone acts: the path holds something else
│   ├── SymlinkInTheWay
│   ├── FileInTheWay
│   └── MountInTheWay              a mount that must not be entered or covered
├── WrongMount                     terminal until someone acts: what is mounted is not what should be
│   ├── NotHeld                    retryable: kubelet does not have the volume mounted now
│   ├── StaleMount                 the right directory, but cut off from its source: nothing propagates to it any more
│   └── StackedMounts              more than one mount on a path that must hold one
└── ExecutorProblem                retryable
    ├── ExecutorClosed
    └── ExecutorSaturated          every thread is stuck
"""

from __future__ import annotations

import errno
import os


class MountProblem(Exception):
    """Root of the package's errors."""


class MountError(MountProblem, OSError):
    """The kernel refused a call. `errno` is set; `call` is the call with its arguments in words."""

    def __init__(self, number: int, call: str) -> None:
        super().__init__(number, f"{call}: {os.strerror(number)} ({errno.errorcode.get(number, number)})")
        self.call = call

    def __str__(self) -> str:
        return str(self.strerror)

    @staticmethod
    def of(number: int, call: str) -> MountError:
        """The class of the tree that fits an error number."""
        return _CLASS_OF.get(number, MountError)(number, call)


class MountBusy(MountError): ...


class NotMounted(MountError): ...


class MountNotPermitted(MountError): ...


class MountUnsupported(MountError): ...


_CLASS_OF: dict[int, type[MountError]] = {
    errno.EBUSY: MountBusy,
    errno.EPERM: MountNotPermitted,
    errno.EACCES: MountNotPermitted,
    errno.ENOSYS: MountUnsupported,
}


class UnsafePath(MountProblem, ValueError):
    """A path that is absolute where it must be relative, not normal, or that climbs."""


class InTheWay(MountProblem):
    """Something other than the expected directory is at a path."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.path = path


class SymlinkInTheWay(InTheWay):
    def __init__(self, path: str) -> None:
        super().__init__(path, "is a symbolic link, which is never followed here; remove it")


class FileInTheWay(InTheWay):
    def __init__(self, path: str) -> None:
        super().__init__(path, "is not a directory; remove it")


class MountInTheWay(InTheWay):
    """A mount is where none may be entered or covered."""


class WrongMount(MountProblem):
    """What is mounted at `path` is not what should be there."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path


class NotHeld(WrongMount):
    """Nothing, or something new, is where a volume was mounted a moment ago."""


class StaleMount(WrongMount):
    """A view of the right directory whose source was unmounted or mounted anew: new mounts no longer arrive."""


class StackedMounts(WrongMount):
    """Several mounts on top of one another where there must be one."""


class ExecutorProblem(MountProblem):
    """A call was not begun; the same call may be made again."""


class ExecutorClosed(ExecutorProblem): ...


class ExecutorSaturated(ExecutorProblem): ...
