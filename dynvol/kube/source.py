"""Lists and watches one collection over HTTP: `dynvol.runtime`'s idea of a source.

Deciding when to list, to watch, to wait is the runtime's. What is decided here is how a wish becomes query parameters, and which
of the runtime's errors an answer is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from typing import Final, Generic

import aiohttp
import msgspec

from ..api.resources import Resource
from ..runtime import errors as runtime
from ..runtime.source import Event, ObjectT, Page
from . import errors
from .connection import CONNECT_TIMEOUT, Answer, Connection
from .decoding import decode_event, decode_page
from .lines import LineSplitter, LineTooLong

LIST_TIMEOUT: Final = aiohttp.ClientTimeout(total=60.0, sock_connect=CONNECT_TIMEOUT)
WATCH_GRACE: Final = 15.0
"""Seconds that a watch may outlast what the server was asked for. Then the server has forgotten us, or we have lost it."""

WHOLE: Final = "application/json"
METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
"""Metadata only, or the whole from a server that cannot leave out the rest."""


class ApiSource(Generic[ObjectT]):
    """One collection of one resource, perhaps narrowed by selectors. Implements `dynvol.runtime.source.Source`."""

    def __init__(
        self,
        connection: Connection,
        resource: Resource[ObjectT],
        path: str,
        *,
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
    ) -> None:
        self._connection = connection
        self._resource = resource
        self._path = path
        self._selectors = selectors(label_selector=label_selector, field_selector=field_selector)
        self._metadata_only = metadata_only

    async def list(self, *, resource_version: str, limit: int, continue_token: str = "") -> Page[ObjectT]:
        query = list_query(resource_version=resource_version, limit=limit, continue_token=continue_token)
        with _translated():
            body = await self._connection.call(
                "GET",
                self._path,
                query=self._selectors | query,
                accept=METADATA_LIST if self._metadata_only else WHOLE,
                timeout=LIST_TIMEOUT,
            )
        try:
            return decode_page(body, self._resource)
        except msgspec.DecodeError as error:
            raise runtime.Unavailable(f"GET {self._path}: the answer is no list: {error}") from error

    @asynccontextmanager
    async def watch(
        self, *, resource_version: str, timeout: float, initial_events: bool = False
    ) -> AsyncIterator[AsyncIterator[Event[ObjectT]]]:
        query = watch_query(resource_version=resource_version, timeout=timeout, initial_events=initial_events)
        async with AsyncExitStack() as stack:
            exchange = self._connection.exchange(
                "GET",
                self._path,
                query=self._selectors | query,
                accept=METADATA if self._metadata_only else WHOLE,
                timeout=aiohttp.ClientTimeout(total=timeout + WATCH_GRACE, sock_connect=CONNECT_TIMEOUT),
            )
            with _translated(initial_events=initial_events):
                answer = await stack.enter_async_context(exchange)
            answer.detect_dead_peer()
            # What the caller's block raises is the caller's; only what goes wrong within the iterator is translated.
            yield await stack.enter_async_context(aclosing(self._events(answer, initial_events=initial_events)))

    async def _events(self, answer: Answer, *, initial_events: bool) -> AsyncGenerator[Event[ObjectT], None]:
        splitter = LineSplitter()
        with _translated(initial_events=initial_events):
            async for chunk in answer.chunks():
                for line in splitter.feed(chunk):
                    yield decode_event(line, self._resource)


def selectors(*, label_selector: str, field_selector: str) -> dict[str, str]:
    """The parameters that narrow a list or a watch. Empty: do not."""
    return _given(labelSelector=label_selector, fieldSelector=field_selector)


def list_query(*, resource_version: str, limit: int, continue_token: str) -> dict[str, str]:
    """The parameters of a list.

    Without `resourceVersionMatch` a limit would turn "not older than" into "exactly" (the API's legacy semantics). A
    continue token holds its own version and forbids both.
    """
    page = _given(limit=str(limit) if limit else "")
    if continue_token:
        return page | {"continue": continue_token}
    if not resource_version:
        return page
    return page | {"resourceVersion": resource_version, "resourceVersionMatch": "NotOlderThan"}


def watch_query(*, resource_version: str, timeout: float, initial_events: bool) -> dict[str, str]:
    """The parameters of a watch. `resourceVersionMatch` is refused on one that does not begin with the initial events."""
    query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(max(1, round(timeout)))}
    streamed = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"} if initial_events else {}
    return query | streamed | _given(resourceVersion=resource_version)


def as_source_error(error: errors.KubeError, *, initial_events: bool = False) -> runtime.SourceError:
    """What the runtime's watcher is to make of it."""
    text = str(error)
    match error:
        case errors.Unreachable():
            return runtime.Unavailable(text)
        case errors.ApiError() if initial_events and _cannot_stream(error):
            return runtime.StreamingListUnsupported(text)
        case errors.Gone():
            return runtime.Expired(text)
        case errors.TooManyRequests():
            return runtime.Throttled(text, retry_after=error.retry_after)
        case errors.ApiError() if error.caused_by("ResourceVersionTooLarge"):
            return runtime.TooLargeVersion(text)
        case errors.ServerError():
            return runtime.Unavailable(text)
        case _:
            return runtime.SourceError(text)


def _cannot_stream(error: errors.ApiError) -> bool:
    """400 and 422: the parameter is unknown, or its feature gate is off. The sentence: etcd before 3.4.25 [cacher.go, Watch]."""
    return isinstance(error, errors.Invalid) or "required storage feature" in error.message


@contextmanager
def _translated(*, initial_events: bool = False) -> Iterator[None]:
    try:
        yield
    except errors.KubeError as error:
        raise as_source_error(error, initial_events=initial_events) from error
    except LineTooLong as error:
        raise runtime.Unavailable(str(error)) from error


def _given(**parameters: str) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if value}
