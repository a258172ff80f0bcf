"""What happens around every call: admission while the server drains, limits, codes, one line in the log, figures.

grpclib answers an unforeseen exception with UNKNOWN and logs it without the method, takes messages of any size, and knows no
draining. All that is done here, once, for all services.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol

from grpclib.const import Handler, Status
from grpclib.events import RecvMessage
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.server import Stream
from h2.exceptions import StreamClosedError

from .codec import StrictCodec
from .errors import Codes, MessageTooLarge, ShuttingDown
from .redaction import redacted

_log: Final = logging.getLogger(__name__)

MESSAGE_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of one message, as in the other gRPC implementations; a real one has a few KiB."""


class CallObserver(Protocol):
    """Is told of every call when it ends. Must not raise or block."""

    def __call__(self, method: str, code: str, seconds: float, /) -> None:
        """`method` as in `/csi.v1.Node/NodePublishVolume`, `code` as in `INVALID_ARGUMENT`."""


def unobserved(method: str, code: str, seconds: float, /) -> None:
    """The observer that does not care."""


class Service(Protocol):
    """What betterproto2 generates the bases of."""

    def __mapping__(self) -> Mapping[str, Handler]:
        """Handlers by path, as in `/csi.v1.Node/NodePublishVolume`."""


class Calls:
    """All calls of one server: wraps its services, counts, refuses when told to."""

    def __init__(self, codes: Codes, observer: CallObserver) -> None:
        self._codes = codes
        self._observer = observer
        self._refusing = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def guard(self, service: Service) -> GuardedService:
        """The same methods, each with everything around it."""
        return GuardedService(
            {
                method: handler._replace(func=functools.partial(self._serve, method, handler.func))
                for method, handler in service.__mapping__().items()
            }
        )

    def refuse(self) -> None:
        """From now on every new call is answered UNAVAILABLE; those in flight go on."""
        self._refusing = True

    async def idle(self) -> None:
        """Until no call is in flight."""
        await self._idle.wait()

    async def _serve(self, method: str, handler: Callable[[Stream[Any, Any]], Awaitable[None]], stream: Stream[Any, Any]) -> None:
        with self._counted(), _observed(method, stream, self._observer):
            if self._refusing:
                raise self._answer(method, ShuttingDown("dynvol is being stopped; call again"))
            _limit_messages(stream)
            stream._codec = StrictCodec(stream._codec)
            try:
                await handler(stream)
            except StreamTerminatedError:
                raise
            except StreamClosedError as error:  # While the answer was on its way: as good as cancelled, and no one's fault.
                raise GRPCError(Status.CANCELLED) from error
            except Exception as error:
                raise self._answer(method, error) from error

    def _answer(self, method: str, error: Exception) -> GRPCError:
        """What the client is told. Logged here, once: a line for what was foreseen, a trace for what was not."""
        if isinstance(error, GRPCError):
            if error.status is Status.UNIMPLEMENTED and error.message is None:
                return GRPCError(error.status, f"{method} is not implemented: {self._codes.unimplemented}")
            return error
        code = self._codes.of(error)
        if code is not None:
            _log.warning("call refused", extra={"method": method, "code": code.name, "error": str(error)})
            return GRPCError(code, str(error))
        mark = uuid.uuid4().hex[:12]
        _log.error("call failed", extra={"method": method, "log_id": mark}, exc_info=error)
        return GRPCError(Status.INTERNAL, f"unexpected {type(error).__name__}: look for {mark} in dynvol's log")

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()


class GuardedService:
    def __init__(self, mapping: Mapping[str, Handler]) -> None:
        self._mapping = mapping

    def __mapping__(self) -> Mapping[str, Handler]:
        return self._mapping


async def log_request(event: RecvMessage) -> None:
    """A listener for grpclib: each request at DEBUG, without its secrets."""
    if _log.isEnabledFor(logging.DEBUG):
        _log.debug("request", extra={"type": type(event.message).__name__, "request": redacted(event.message)})


@contextmanager
def _observed(method: str, stream: Stream[Any, Any], observer: CallObserver) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    code = Status.OK
    try:
        yield
    except GRPCError as error:
        code = error.status
        raise
    except BaseException:  # The client's deadline or cancellation, seen as one of ours, or its connection gone.
        late = stream.deadline is not None and stream.deadline.time_remaining() <= 0
        code = Status.DEADLINE_EXCEEDED if late else Status.CANCELLED
        raise
    finally:
        observer(method, code.name, loop.time() - begun)


def _limit_messages(stream: Stream[Any, Any]) -> None:
    """Refuse a message by the size that its prefix announces, before any of it is kept. grpclib has no such setting."""
    raw = stream._stream
    receive = raw.recv_data

    async def recv_data(size: int) -> bytes:
        if size > MESSAGE_LIMIT:
            raise MessageTooLarge(f"a message of {size} bytes is larger than {MESSAGE_LIMIT}")
        data = await receive(size)
        return data

    raw.recv_data = recv_data  # type: ignore[method-assign]
