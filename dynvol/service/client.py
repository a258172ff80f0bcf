"""The caller's side: a channel to the service's socket, and its errors in words."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from dynvol.api import names

from .proto.dynvol.mounter import v1 as wire


class CallFailed(Exception):
    """`code` is gRPC's, as in `NOT_FOUND`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def socket_path(address: str) -> Path:
    """From `unix:///run/x.sock` or `unix:/run/x.sock`. Raises ValueError."""
    scheme, _, rest = address.partition(":")
    path = Path("/" + rest.lstrip("/"))
    if scheme != "unix" or not rest.startswith("/") or path == Path("/"):
        raise ValueError(f"{address!r} is no address of a socket; {names.MOUNTER_SOCKET} is one")
    return path


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[wire.MounterStub]:
    """The service's calls. Inside the block, all that goes wrong with a call is raised as CallFailed. Raises ValueError."""
    path = socket_path(address)
    async with Channel(path=str(path)) as channel:
        with _in_words(address):
            yield wire.MounterStub(channel)


@contextlib.contextmanager
def _in_words(address: str) -> Iterator[None]:
    try:
        yield
    except GRPCError as error:
        raise CallFailed(error.status.name, error.message or "no reason given") from error
    except (StreamTerminatedError, ConnectionResetError, BrokenPipeError) as error:
        raise CallFailed(Status.UNAVAILABLE.name, "the service ended; what was wanted comes back with it, so ask again") from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise CallFailed(Status.UNAVAILABLE.name, f"no service listens at {address}; `dynvol mounter serve` is one") from error
    except PermissionError as error:
        raise CallFailed(Status.PERMISSION_DENIED.name, f"this user may not connect to {address}") from error
    except TimeoutError as error:
        raise CallFailed(Status.DEADLINE_EXCEEDED.name, "not done in time; the service goes on with it") from error
