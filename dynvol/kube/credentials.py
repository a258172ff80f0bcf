"""Bearer tokens that change while the process runs: kubelet's projected tokens, files of a kubeconfig, credential plugins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

log = logging.getLogger(__name__)

PERIOD: Final = 60.0
"""Seconds. Kubelet replaces a projected token at 80% of its life, which is ten minutes at the least."""
RETRY: Final = 10.0

Reader: TypeAlias = Callable[[], Awaitable[str]]
"""Gives the value of the Authorization header."""


class Token:
    """Keeps a configuration's token fresh: read again when `PERIOD` is over, and after a refusal.

    A token that cannot be read is no reason to forget the one that there is: it may well be good still.
    """

    def __init__(self, read: Reader | None) -> None:
        """Without a reader, the token (or the lack of one) that the configuration has is for ever."""
        self._read = read
        self._fresh_until = 0.0
        self._reading = asyncio.Lock()

    def refused(self) -> None:
        """The server did not take the token: read it before the next request, whatever its age."""
        self._fresh_until = 0.0

    async def refresh(self, configuration: Any) -> None:
        """kubernetes_asyncio calls this before every request that carries a token."""
        if self._read is None or self._is_fresh():
            return
        async with self._reading:
            if not self._is_fresh():
                await self._replace(configuration, self._read)

    def _is_fresh(self) -> bool:
        return asyncio.get_running_loop().time() < self._fresh_until

    async def _replace(self, configuration: Any, read: Reader) -> None:
        period = PERIOD
        try:
            configuration.api_key["BearerToken"] = await read()
        except Exception as error:
            log.warning("the API token cannot be read again; the old one is kept", extra={"error": str(error)})
            period = RETRY
        self._fresh_until = asyncio.get_running_loop().time() + period


def token_file(path: Path) -> Reader:
    """Reads in a thread: the file is not always on a file system as quick as the one that kubelet makes."""

    def read() -> str:
        token = path.read_text(encoding="ascii").strip()
        if not token:
            raise ValueError(f"{path} is empty")
        return f"Bearer {token}"

    async def read_aside() -> str:
        return await asyncio.to_thread(read)

    return read_aside


def plugin(loader: Any) -> Reader:
    """Asks the kubeconfig's credential plugin, unless what it said before has yet to expire."""

    async def ask() -> str:
        await loader.load_from_exec_plugin()
        return str(loader.token)

    return ask
