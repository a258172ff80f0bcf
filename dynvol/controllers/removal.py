"""Removal, the leader's part: dynvol can be deleted all at once and in any order, and no finalizer is left hanging.

`kubectl delete -k` deletes within a second the claims, which have to be flushed and unmounted first, and everything by which that
is done: the account of the node processes, its roles, the lease. So while there are claims or classes, these carry a finalizer too,
the guard. What carries one stays though it is deleted: a role goes on granting, a lease can be held, and the API server honours an
account's tokens for a minute more. When nothing is held any more the guards are taken off, all of them together, since each of them
keeps up a right that it takes to take off the others.

That minute is all there is. What is still being flushed when it is nearly over is in the hands of its mount pod, which needs nobody
to flush and leave, and for which the namespace waits; claims and classes are let go, since nobody could do that later. This is what
this controller keeps up: a finalizer of ours stands only while someone of ours is there to take it off.

It deletes nothing and unmounts nothing: a claim that is deleted is the external volume controller's, in a removal as ever.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dynvol.api import names
from dynvol.api.core import Bare
from dynvol.api.resources import (
    CLAIMS,
    CLASSES,
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    DEFINITIONS,
    LEASES,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    Resource,
)
from dynvol.kube.client import KubeClient, Patch
from dynvol.kube.errors import ApiError, Conflict, Invalid, NotFound
from dynvol.observe import logs
from dynvol.runtime.controller import DONE, Controller, RequeueAfter, Result
from dynvol.runtime.informer import Informer
from dynvol.runtime.store import Change

from .claimstatus import LeaderView
from .farewell import Farewell
from .finalizers import add_finalizer, drop_finalizer, without
from .namesakes import Superseded
from .view import Instruments

log = logs.get(__name__)

LOOK: Final = 15.0
"""Seconds between looks at what is guarded, which is not watched."""
AGAIN: Final = 1.0
"""Seconds between looks while a removal is under way."""
LAST_MOMENT: Final = 45.0
"""Seconds after which all is let go. An account's tokens end 60 s after its deletion (kubernetes pkg/serviceaccount/claims.go)."""
_KEY: Final = "dynvol"
_HOLDS: Final[Sequence[tuple[Resource[Any], str]]] = ((CLAIMS, names.CLAIM_FINALIZER), (CLASSES, names.CLASS_FINALIZER))
_PASSES: Final = 5
"""How often all that is held is let go, should others hold more meanwhile."""


@dataclass(frozen=True, slots=True)
class _Guarded:
    resource: Resource[Any]
    name: str
    namespace: str = ""


def _guarded(namespace: str) -> Sequence[_Guarded]:
    """What a mount takes to be taken down in good order: being someone, being allowed to, being the leader."""
    both = (names.NODE_ACCOUNT, names.MOUNT_ACCOUNT)
    namespaced = (SERVICE_ACCOUNTS, ROLES, ROLE_BINDINGS)
    return (
        _Guarded(CLUSTER_ROLES, names.NODE_ACCOUNT),
        _Guarded(CLUSTER_ROLE_BINDINGS, names.NODE_ACCOUNT),
        *(_Guarded(resource, name, namespace) for resource in namespaced for name in both),
        _Guarded(LEASES, names.LEADER_LEASE, namespace),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    what: _Guarded
    obj: Bare

    @property
    def going(self) -> bool:
        return self.obj.metadata.deleting

    @property
    def held(self) -> bool:
        return names.GUARD_FINALIZER in self.obj.metadata.finalizers


class RemovalController:
    """`farewell` knows whether this process has been told to end because dynvol is going."""

    def __init__(
        self, view: LeaderView, *, client: KubeClient, namespace: str, farewell: Farewell, instruments: Instruments
    ) -> None:
        self._view = view
        self._client = client
        self._guarded: Final = _guarded(namespace)
        self._farewell = farewell
        self._begun = False
        self.controller: Final[Controller] = instruments.controller("removal", self.reconcile, workers=1)
        # Not watched as other controllers' are: it must work too when definitions, and with them the caches, are gone.
        self._registrations = (
            view.claims.add_handler(self._look_if_news),
            view.classes.add_handler(self._look_if_news),
        )

    async def run(self) -> None:
        self.controller.enqueue(_KEY)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.controller.run(), name="removal-controller")
                tasks.create_task(self._look_at_the_end(), name="removal-farewell")
        finally:
            for registration in self._registrations:
                registration.remove()

    def _look_if_news(self, change: Change[Any]) -> None:
        """Something came, went, is to go, or is let go."""
        if _fate(change.old) != _fate(change.new):
            self.controller.enqueue(_KEY)

    async def _look_at_the_end(self) -> None:
        await self._farewell.begun.wait()
        self.controller.enqueue(_KEY)

    async def is_under_way(self) -> bool:
        """Whether classes have no future: dynvol is being removed, or at least their definition."""
        return self._begun or await self._definition_is_going()

    async def _definition_is_going(self) -> bool:
        try:
            found = await self._client.get(DEFINITIONS, f"{CLASSES.plural}.{CLASSES.group}")
        except ApiError:
            return False
        return found.metadata.deleting

    async def reconcile(self, _: str) -> Result:
        """1. While nobody removes anything, guard what will be needed then. 2. In a removal, wait for what is held. 3. When nothing
        is, or time is up, let go of everything and leave."""
        if self._farewell.begun.is_set() and self._farewell.over.is_set():
            return DONE
        found = await self._look()
        going = [f.obj for f in found if f.going]
        self._begun = bool(going) or self._farewell.begun.is_set()
        if not self._begun:
            await self._keep(found, needed=await self._needed())
            return RequeueAfter(LOOK)
        if self._time_left(going) > 0.0 and await self._is_held():
            return RequeueAfter(AGAIN)
        if not going and not await self._farewell.is_removal():
            log.info("dynvol is back, and is not being removed after all")
            self._farewell.over.set()
            return RequeueAfter(LOOK)
        await self._let_go(found)
        return RequeueAfter(LOOK)

    async def _look(self) -> Sequence[_Found]:
        there = await asyncio.gather(*(self._find(what) for what in self._guarded))
        return [found for found in there if found is not None]

    async def _find(self, what: _Guarded) -> _Found | None:
        try:
            found = await self._client.get(what.resource, what.name, namespace=what.namespace)
        except NotFound:
            return None
        return _Found(what, Bare(metadata=found.metadata))

    # --- While nobody removes anything

    async def _needed(self) -> bool:
        """Any claim or class may be held at any moment, if it is not already."""
        return await self._any(CLAIMS, self._view.claims) or await self._any(CLASSES, self._view.classes)

    async def _any(self, resource: Resource[Any], informer: Informer[Any]) -> bool:
        return bool(len(informer.store) if informer.has_synced else await self._list(resource))

    async def _list(self, resource: Resource[Any]) -> Sequence[Any]:
        """None of a resource that is not defined, or not any more."""
        try:
            return await self._client.list(resource)
        except NotFound:
            return ()

    async def _keep(self, found: Iterable[_Found], *, needed: bool) -> None:
        """With nothing to hold, nothing is guarded: then a removal needs nobody."""
        if not needed:
            await self._unguard(found)
            return
        for each in found:
            if not each.held:
                log.info("guarding what a removal needs", kind=each.what.resource.kind, name=each.what.name)
                try:
                    await add_finalizer(self._client, each.what.resource, each.obj, names.GUARD_FINALIZER)
                except (Conflict, Superseded) as why:
                    log.debug("it is for the next look", why=str(why))

    # --- In a removal

    async def _is_held(self) -> bool:
        """Whether there is a finalizer of ours on any claim or class. That there is none is for the API server to say: a cache may
        lag, or not have synced yet."""
        held = any(names.CLAIM_FINALIZER in claim.metadata.finalizers for claim in self._view.claims.store)
        held = held or any(names.CLASS_FINALIZER in c.metadata.finalizers for c in self._view.classes.store)
        return held or bool(await self._held())

    async def _held(self) -> Sequence[tuple[Resource[Any], str, Any]]:
        """What carries a finalizer of ours, and which."""
        return [
            (resource, finalizer, each)
            for resource, finalizer in _HOLDS
            for each in await self._list(resource)
            if finalizer in each.metadata.finalizers
        ]

    def _time_left(self, going: Iterable[Bare]) -> float:
        """Seconds, counted from what came first: the first deletion among what is guarded, or the end of this process."""
        now = datetime.datetime.now(datetime.UTC)
        ages = [(now - _moment(obj.metadata.deletion_timestamp)).total_seconds() for obj in going]
        return LAST_MOMENT - max([*ages, self._farewell.lasted()])

    async def _let_go(self, found: Iterable[_Found]) -> None:
        """1. Of what is held in spite of all. 2. Of the guards, and with them of all that we may do."""
        for _ in range(_PASSES):
            if not (held := await self._held()):
                break
            for resource, finalizer, each in held:
                log.warning("removal: time is up, letting go", kind=resource.kind, key=each.metadata.key)
                try:
                    await drop_finalizer(self._client, resource, each, finalizer)
                except (Invalid, Conflict, NotFound) as why:
                    log.debug("it is for the next pass", why=str(why))
        log.info("removal: nothing is held any more, taking the guards off")
        await self._unguard(found)
        self._farewell.over.set()

    async def _unguard(self, found: Iterable[_Found]) -> None:
        await self._client.patch_together(
            [
                Patch(
                    resource=each.what.resource,
                    name=each.what.name,
                    namespace=each.what.namespace,
                    operations=without(each.obj.metadata, names.GUARD_FINALIZER),
                )
                for each in found
                if each.held
            ]
        )


def _fate(obj: Any) -> object:
    return None if obj is None else (obj.metadata.uid, obj.metadata.deleting, obj.metadata.finalizers)


def _moment(text: str | None) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text or "").astimezone(datetime.UTC)
