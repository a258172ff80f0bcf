"""What a node process does between being told to end and ending.

Mostly nothing: in a rollout its successor waits. But when it is told because dynvol is being removed there is no successor, and
the claims on its node are still to be flushed, unmounted and let go. Then it works on until the leader has taken the guards off
(`removal`), which it does when nothing is held any more.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

from dynvol.api import names
from dynvol.api.resources import DAEMON_SETS, NAMESPACES, PODS, SERVICE_ACCOUNTS
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import KubeError, NotFound, Unreachable
from dynvol.observe import logs

log = logs.get(__name__)

ANSWER: Final = 3.0
"""Seconds that the API server has to say whether this is a removal. A rollout is not to wait for one that is away."""
LONGEST: Final = 53.0
"""Seconds. More than the leader waits (`removal.LAST_MOMENT`), less than the grace period of the DaemonSet's pods."""
LOOK: Final = 3.0
"""Seconds between looks at whether the leader is done; every node has such a process, so no fewer."""


class Farewell:
    """`wait` is called once, when the process is told to end."""

    def __init__(self, client: KubeClient, *, pod_name: str, namespace: str) -> None:
        self._client = client
        self._pod_name = pod_name
        self._namespace = namespace
        self._began = 0.0
        self.begun: Final = asyncio.Event()
        """Set while this process stays because of a removal."""
        self.over: Final = asyncio.Event()
        """Set by whoever knows that there is nothing left to stay for."""

    def lasted(self) -> float:
        """Seconds since it began."""
        return asyncio.get_running_loop().time() - self._began if self.begun.is_set() else 0.0

    async def wait(self) -> None:
        """Returns when the process may end; at once, unless dynvol is being removed."""
        if not await self._is_known_removal():
            return
        log.info("dynvol is being removed: staying until nothing is held any more")
        self._began = asyncio.get_running_loop().time()
        # An earlier removal may have ended halfway, and its end is not this one's.
        self.over.clear()
        self.begun.set()
        try:
            async with asyncio.timeout(LONGEST):
                while not self.over.is_set() and await self._is_guarded():
                    await self._pause()
        except TimeoutError:
            log.error("dynvol was removed before everything was let go; hack/uninstall mends what is left")

    async def _is_known_removal(self) -> bool:
        try:
            async with asyncio.timeout(ANSWER):
                return await self.is_removal()
        except (KubeError, TimeoutError) as why:
            log.info("cannot tell whether dynvol is being removed", why=str(why))
            return False

    async def is_removal(self) -> bool:
        """Whether the namespace is going, or the DaemonSet that this pod belongs to. Raises KubeError where that cannot be told."""
        namespace = await self._client.get(NAMESPACES, self._namespace)
        return namespace.metadata.deleting or await self._is_orphan()

    async def _is_orphan(self) -> bool:
        """Not if there is another DaemonSet of that name: its pods follow ours."""
        pod = await self._client.get(PODS, self._pod_name, namespace=self._namespace)
        owner = next((o for o in pod.metadata.owner_references if o.controller and o.kind == DAEMON_SETS.kind), None)
        if owner is None:
            return False
        try:
            found = await self._client.get(DAEMON_SETS, owner.name, namespace=self._namespace)
        except NotFound:
            return True
        return found.metadata.uid == owner.uid and found.metadata.deleting

    async def _is_guarded(self) -> bool:
        """Whether the leader is still at it. That we are nobody any more says no as well."""
        try:
            account = await self._client.get(SERVICE_ACCOUNTS, names.NODE_ACCOUNT, namespace=self._namespace)
        except Unreachable:
            return True
        except KubeError:
            return False
        return names.GUARD_FINALIZER in account.metadata.finalizers

    async def _pause(self) -> None:
        over = asyncio.create_task(self.over.wait(), name="farewell-over")
        await asyncio.wait((over,), timeout=LOOK * (0.5 + random.random()))
        over.cancel()
