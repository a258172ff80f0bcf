"""A cache of one collection, kept up to date by list and watch, and those who want to hear of changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, NoReturn, TypeAlias

from .metrics import UNMEASURED, InformerMetrics
from .source import ObjectT, Source
from .store import NO_INDEXERS, Change, Indexer, View

Handler: TypeAlias = Callable[[Change[ObjectT]], None]


class Registration:
    """A handler's place in an informer's list."""

    def remove(self) -> None:
        raise NotImplementedError


class Informer(Generic[ObjectT]):
    def __init__(
        self,
        source: Source[ObjectT],
        *,
        name: str,
        indexers: Mapping[str, Indexer[ObjectT]] = NO_INDEXERS,
        transform: Callable[[ObjectT], ObjectT] | None = None,
        streaming: bool = True,
        metrics: InformerMetrics = UNMEASURED,
    ) -> None:
        self.name = name
        self.store: View[ObjectT]
        raise NotImplementedError

    @property
    def has_synced(self) -> bool:
        raise NotImplementedError

    async def synced(self) -> None:
        raise NotImplementedError

    def add_handler(self, handler: Handler[ObjectT]) -> Registration:
        raise NotImplementedError

    async def run(self) -> NoReturn:
        raise NotImplementedError
