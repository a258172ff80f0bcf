"""Wanted mounts in, reports out: the engine brings what is mounted to what is wanted, and keeps it there.

It knows no API and no annotation; a feed calls `set_wanted` and reads `reports`. Nothing it knows is lost with it: what is
mounted is in the mount table, what is wanted comes again from the feed.

Calls that could block on a FUSE daemon are made in the executor only. What shows is a bind of a private mount that the
session holds, so hiding it never waits for a daemon either.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeGuard

import msgspec

from dynvol.api.mounts import MountReport, WantedMount
from dynvol.mount import caches, mountinfo, paths, propagation, syscalls
from dynvol.mount.errors import MountBusy, MountProblem, NotMounted
from dynvol.mount.mountinfo import Mount, MountTable
from dynvol.mount.propagation import Propagation
from dynvol.mount.providers.contract import Finding
from dynvol.observe import logs

from . import stage
from .decide import Action, Hide, Salvage, SessionView, Show, Shown, Start, Stop, decide, refusals, reports
from .session import Session
from .tools import Tools

_log: Final = logs.get(__name__)

_RETRY: Final = 1.0
"""Seconds until a step that failed is decided upon again."""


class Engine:
    """An endless `run` in a TaskGroup of its own; `close` ends it."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._left: dict[str, WantedMount] = {}
        """Nothing is done about these before it is known what is wanted."""
        self._told = False
        self._wanted: list[WantedMount] = []
        self._accepted: list[WantedMount] = []
        self._refused: dict[str, MountReport] = {}
        self._sessions: dict[str, Session] = {}
        self._busy: set[str] = set()
        self._failures: dict[str, Finding] = {}
        self._reported: dict[str, MountReport] = {}
        self._recorded: frozenset[str] | None = None
        """The keys of what the last report that arrived speaks of; None if nobody is reported to."""
        self._closing = False
        self._yielded = False
        self._wake: Final = asyncio.Event()
        self._news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.version = 0
        """Moves when `reports` may have changed."""

    # --- the feed's side

    def set_wanted(self, wanted: Sequence[WantedMount]) -> None:
        """All mounts that there should be. Ignored once the engine closes."""
        if not self._closing:
            self._want(wanted)

    def on_record(self, keys: Iterable[str]) -> None:
        """A report of the mounts with these keys (`WantedMount.key`) has arrived."""
        self._recorded = frozenset(keys)
        self._wake.set()

    def set_overdue(self, pods: Iterable[str]) -> None:
        """The uids of all pods that should have ended long ago, and may be kept from it by a mount that they had."""
        overdue = frozenset(pods)
        for session in self._sessions.values():
            session.set_overdue(overdue)

    def adopt(self, left: Sequence[WantedMount]) -> None:
        """Before `run`: what earlier mounters left caches of. What is not wanted again is uploaded, and reported until it is."""
        self._left = {mount.source: mount for mount in left}

    def _want(self, wanted: Sequence[WantedMount]) -> None:
        self._told = True
        self._wanted = list(wanted)
        self._refused = refusals(self._wanted, for_pods=self._tools.stage.for_pods)
        self._accepted = [m for m in self._wanted if m.key not in self._refused]
        paths_wanted = {m.path for m in self._accepted}
        self._failures = {path: why for path, why in self._failures.items() if path in paths_wanted}
        self._poke()

    def retry(self, source: str) -> None:
        """Try at once what waits for its next attempt: someone has acted."""
        if (session := self._sessions.get(source)) is not None:
            session.retry()

    @property
    def idle(self) -> bool:
        """Nothing is wanted, nothing of ours is mounted or ending, and nothing waits for its upload."""
        return not self._wanted and not self._sessions and not self._busy and not (self._told and self._left)

    def refresh_credentials(self) -> None:
        """They may have changed: each mount goes over to the new ones when it can, and what failed is tried with them at once."""
        for session in self._sessions.values():
            session.refresh()
            session.retry()

    def reports(self) -> list[MountReport]:
        """One for each mount that is wanted or not gone yet. Times move with phase and reason only."""
        found = reports(self._wanted, refused=self._refused, shown=self._shown(), sessions=self._views(), failures=self._failures)
        stamped = {entry.key: self._stamped(entry) for entry in found}
        self._reported = stamped
        return list(stamped.values())

    async def newer_than(self, version: int) -> int:
        """The present version, as soon as it is not `version`. With the last answer handed back in, no change is lost."""
        while self.version == version:
            await asyncio.shield(self._news)
        return self.version

    def _stamped(self, entry: MountReport) -> MountReport:
        before = self._reported.get(entry.key)
        same = before is not None and (before.phase, before.reason, before.spec_hash) == (
            entry.phase,
            entry.reason,
            entry.spec_hash,
        )
        moment = before.time if before is not None and same else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return msgspec.structs.replace(entry, time=moment)

    # --- the loop

    async def run(self) -> None:
        """Until closed. A step that fails is logged, reported, and decided upon again; it takes no other mount with it."""
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch_table(), name="mount table")
            while not (self._closing and self.idle):
                for action in self._decide():
                    self._apply(action, tasks)
                await self._wake.wait()
                self._wake.clear()
            watching.cancel()

    async def close(self, *, within: float) -> None:
        """Flush and unmount all, without waiting for programs that hold files open: they lose them with us in any case. After
        `within` seconds sessions give up what they cannot flush, and leave it in their caches."""
        self._closing = True
        for session in self._sessions.values():
            session.hurry()
        self._want(())
        try:
            async with asyncio.timeout(within):
                await self.until_idle()
        except TimeoutError:
            for session in self._sessions.values():
                session.give_up()

    async def yield_(self, *, within: float) -> None:
        """Like `close`, but what shows below the root is left to a successor: only our own clients end, once they have flushed."""
        self._yielded = True
        await self.close(within=within)

    async def until_idle(self) -> None:
        version = self.version
        while not self.idle:
            version = await self.newer_than(version)

    async def _watch_table(self) -> None:
        table = self._tools.watcher.table
        while True:
            table = await self._tools.watcher.newer_than(table)
            self._poke()

    def _decide(self) -> list[Action]:
        left = self._left.values() if self._told else ()
        decided = decide(self._accepted, shown=self._shown(), sessions=self._views(), busy=self._busy, left=left)
        return [action for action in decided if not isinstance(action, Hide) or self._may_hide(action)]

    def _may_hide(self, action: Hide) -> bool:
        """What goes for good must have been reported first. The node process lets go of a claim that it is not told of any more and
        that no mount shows; from then on the report alone says that its data is still on the way."""
        session = self._sessions.get(action.source)
        if self._recorded is None or self._closing or session is None:
            return True
        key = session.key_at(action.path)
        return key in self._recorded or key in {mount.key for mount in self._accepted}

    def _apply(self, action: Action, tasks: asyncio.TaskGroup) -> None:
        match action:
            case Start(mount=mount):
                session = self._begin(mount, tasks)
                for shown in self._accepted:
                    if shown.source == mount.source:
                        session.admit(shown)
            case Salvage(mount=mount):
                session = self._begin(mount, tasks)
                session.admit(mount)
                session.stop()
            case Stop(source=source):
                self._sessions[source].stop()
            case Show(path=path, source=source) | Hide(path=path, source=source):
                self._busy.add(path)
                tasks.create_task(self._correct(action, self._sessions.get(source)), name=f"correct {path}")

    def _begin(self, mount: WantedMount, tasks: asyncio.TaskGroup) -> Session:
        left = self._left.pop(mount.source, mount).owners
        session = self._sessions[mount.source] = Session(mount, self._tools, changed=self._poke, left=left)
        self._tools.memory.expect(mount.source)
        tasks.create_task(self._live(session), name=f"session {mount.source}")
        return session

    async def _live(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            self._tools.memory.forget(session.mount.source)
            del self._sessions[session.mount.source]
            self._poke()

    async def _correct(self, action: Show | Hide, session: Session | None) -> None:
        path = action.path
        try:
            if isinstance(action, Hide):
                await self._hide(action, session)
            elif session is not None:
                await self._show(action, session)
            self._failures.pop(path, None)
        except (OSError, MountProblem) as error:
            _log.warning("a mount cannot be shown or hidden", path=path, error=str(error))
            self._failures[path] = _misplaced(error)
            self._announce()
            await asyncio.sleep(_RETRY)
        finally:
            self._busy.discard(path)
            self._poke()

    async def _show(self, action: Show, session: Session) -> None:
        """Ends when the watched table shows it too: what is decided next must not be decided from an older one."""
        mount = next((m for m in self._accepted if (m.path, m.source) == (action.path, action.source)), None)
        if mount is None:
            return
        if session.admit(mount):
            # Another claim's, or pod's, data may be in the client's cache from now on.
            await self._tools.executor.run(f"cache {action.source}", caches.record, self._tools.stage.cache, session.on_record)
        device = session.view.device
        if device is None:
            return
        await self._tools.executor.run(action.path, self._show_now, action, device, session.private_mount)
        target = self._tools.stage.shown(action.path)
        await self._until_seen(lambda table: (top := table.at(target)) is not None and top.device == device)

    def _show_now(self, action: Show, device: tuple[int, int], private: str) -> None:
        """In a thread. 1. Where another mount of ours shows, of a client that died or has a successor, the new one comes beneath
        it: programs see the one or the other and never neither. 2. What is on top goes. 3. If it is not there now (the kernel is
        older than 6.5, or nothing showed), it comes: within microseconds.

        Should the client have died just now, there is nothing to bind: the directory below its mount is unbindable.

        After a node's reboot kubelet may start the mount pod before it has published the volume again. A mount below a directory
        that is not published would show in no pod, and stand in the way of publishing it."""
        target = self._tools.stage.shown(action.path)
        # Powerless, whatever the client allows: what is in a bucket makes no one root.
        bind = functools.partial(
            propagation.attach_bind,
            private,
            target,
            propagation=(Propagation.PRIVATE,),
            read_only=action.read_only,
            powerless=True,
        )
        stack = mountinfo.read().stack(target)
        if len(stack) == 1 and _is_ours(stack[0]) and stack[0].device != device:
            with contextlib.suppress(MountProblem):
                bind(beneath=True)
        while _is_ours(mount := mountinfo.read().at(target)):
            if mount.device == device:
                return
            _unmount(target, lazily=True)
        anchor, below = self._tools.stage.anchor(action.path)
        if self._tools.stage.for_pods and not _is_published(anchor):
            raise FileNotFoundError(errno.ENOENT, "the volume is not published", anchor)
        paths.make_directory_below(anchor, below)
        bind()

    async def _hide(self, action: Hide, session: Session | None) -> None:
        """1. Plainly, for a while. 2. Lazily: what is open stays usable, what is opened now finds the bare directory, which
        containers cannot write to. 3. Remove the directories, as far as they are empty. A client that goes on for others is done
        with the path then; one that ends has data to bring home for it."""
        target = self._tools.stage.shown(action.path)
        run = self._tools.executor.run
        if not (action.gently and await self._hide_gently(target)):
            if action.gently and session is not None:
                session.note_open_files()
            await run(action.path, _hide, target, lazily=True)
        await run(action.path, self._remove_directories, action.path)
        await self._until_seen(lambda table: not _is_ours(table.at(target)))
        if session is not None and any(mount.source == action.source for mount in self._accepted):
            session.paths.pop(action.path, None)

    async def _until_seen(self, predicate: Callable[[MountTable], bool]) -> None:
        """Until the watched table shows it. On a node with no time to spare that may take long, which is no failure: what is
        decided from an older table is a step that finds its work done."""
        with contextlib.suppress(TimeoutError):
            await self._tools.watcher.wait_for(predicate, timeout=_RETRY)

    async def _hide_gently(self, target: str) -> bool:
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + self._tools.timing.patience, 0.02
        while True:
            try:
                await self._tools.executor.run(target, _hide, target, lazily=False)
                return True
            except MountBusy:
                if loop.time() + pause > deadline:
                    return False
            await asyncio.sleep(pause)
            pause *= 2

    def _remove_directories(self, path: str) -> None:
        """In a thread."""
        removal = paths.remove_empty_directories_below(*self._tools.stage.anchor(path))
        for obstacle in removal.left:
            _log.info("left in place", path=obstacle.path, why=obstacle.reason)

    # --- what it sees

    def _shown(self) -> dict[str, list[Shown]]:
        if self._yielded:
            return {}
        table = self._tools.watcher.table
        found = stage.ours(table, self._tools.stage)
        return {path: [Shown(m.name, m.device) for m in stack] for path, stack in found.items()}

    def _views(self) -> dict[str, SessionView]:
        return {source: session.view for source, session in self._sessions.items()}

    def _poke(self) -> None:
        self._wake.set()
        self._announce()

    def _announce(self) -> None:
        self.version += 1
        news, self._news = self._news, asyncio.get_running_loop().create_future()
        news.set_result(None)


def _misplaced(error: OSError | MountProblem) -> Finding:
    if isinstance(error, FileNotFoundError):
        return Finding("PodDirectoryMissing", "the pod's directory on the node is gone; the pod is going too, or is not ready yet")
    return Finding("MountpointInTheWay", f"the mount cannot be put in its place: {error}")


def _is_published(directory: str) -> bool:
    """Whether a pod's directory is the mount that kubelet's view of it receives from."""
    mount = mountinfo.read().at(directory)
    return mount is not None and mount.peer_group is not None


def _hide(target: str, *, lazily: bool) -> None:
    """In a thread. All of ours at the path, however many there are, and nothing else."""
    while _is_ours(mountinfo.read().at(target)):
        _unmount(target, lazily=lazily)


def _unmount(target: str, *, lazily: bool) -> None:
    with contextlib.suppress(NotMounted):
        syscalls.unmount(target, lazily=lazily)


def _is_ours(mount: Mount | None) -> TypeGuard[Mount]:
    return mount is not None and stage.is_ours(mount)
