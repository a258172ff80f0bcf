"""What can go wrong with a call or a socket whatever the service, and how a server's own errors become codes.

RpcProblem
├── OperationPending    retryable: another operation on the same thing is under way
├── ShuttingDown        retryable, from the process that comes next
├── MessageTooLarge     the caller's fault
├── MessageMalformed    likewise
└── SocketProblem       at start, never in a call
    ├── SocketInUse     another process listens on it
    └── SocketUnusable  the path is too long, or holds something that is not a socket
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from grpclib.const import Status


class RpcProblem(Exception):
    """Root of the package's errors."""


class OperationPending(RpcProblem): ...


class ShuttingDown(RpcProblem): ...


class MessageTooLarge(RpcProblem): ...


class MessageMalformed(RpcProblem): ...


class SocketProblem(RpcProblem): ...


class SocketInUse(SocketProblem): ...


class SocketUnusable(SocketProblem): ...


OWN_CODES: Final[Mapping[type[BaseException], Status]] = {
    OperationPending: Status.ABORTED,
    ShuttingDown: Status.UNAVAILABLE,
    MessageTooLarge: Status.RESOURCE_EXHAUSTED,
    MessageMalformed: Status.INVALID_ARGUMENT,
}
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Codes:
    """From errors that were foreseen to codes."""

    table: Mapping[type[BaseException], Status | Callable[[Any], Status]]
    """Of the service's own errors; looked up by the nearest class. Those of this package need not be in it. Where one class may
    mean several codes, a function of the error tells."""
    unimplemented: str
    """What a caller of a method that is not implemented is told of the server's purpose."""

    def of(self, error: BaseException) -> Status | None:
        """None for what was not foreseen: a defect, to be logged with its trace."""
        if isinstance(error, OSError) and error.errno in _FULL:
            return Status.RESOURCE_EXHAUSTED
        known = {**OWN_CODES, **self.table}
        found = next((known[cls] for cls in type(error).__mro__ if cls in known), None)
        return found(error) if callable(found) else found
