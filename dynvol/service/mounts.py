"""What is wanted, and calls that wait for what becomes of it.

A call changes what is wanted, tells the engine, and waits until the engine's reports show the outcome. The engine's work belongs to
no call: a caller that goes away only stops waiting, and one that asks again waits for the same. Two calls that contradict each
other at one path are put in order or turned away, never mixed.

Not here: what a request means (`wishes`), and how anything is mounted (the engine).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
from collections.abc import Mapping
from typing import Final

import msgspec

from dynvol.api.mounts import MountReport, Phase, WantedMount, overlap
from dynvol.mount.executor import MountExecutor
from dynvol.mounter import decide, stage
from dynvol.mounter.engine import Engine
from dynvol.mounter.stage import SENT, Stage
from dynvol.observe import logs
from dynvol.rpc.errors import OperationPending, ShuttingDown
from dynvol.rpc.operations import Operations

from . import words
from .errors import CODE_OF_REASON, MountFailed, NothingMounted, PathTaken, Withdrawn
from .records import Records
from .wishes import NO_CREDENTIALS

_log: Final = logs.get(__name__)

_LOST: Final = "its credentials were kept in memory only, and went when the service was started anew; mount it again with them"


class Standing(msgspec.Struct, frozen=True):
    """A mount that is wanted, or was and is not gone yet, and how it is."""

    mount: WantedMount
    report: MountReport


class Mounts:
    """All mounts of one service. Invariants: a path in `_leaving` is in `_wanted`; the records hold what `_wanted` does, but for
    moments inside `_deciding`; the engine is told of `_wanted` without `_leaving`."""

    def __init__(self, engine: Engine, place: Stage, *, records: Records, executor: MountExecutor, operations: Operations) -> None:
        self._engine = engine
        self._stage = place
        self._records = records
        self._executor = executor
        self._operations = operations
        self._wanted: dict[str, WantedMount] = {}
        self._leaving: set[str] = set()
        self._kept: set[str] = set()
        """Names of the sets of credentials that came with calls and are there."""
        self._deciding: Final = asyncio.Lock()
        self._closed = False

    async def restore(self) -> None:
        """Take up what was wanted in an earlier life. Raises RecordsUnreadable."""
        mounts = await self._executor.run("records", self._records.read)
        self._wanted = {mount.path: mount for mount in mounts}
        self._kept = await self._executor.run("records", self._find_kept, frozenset(mount.credentials for mount in mounts))
        if mounts:
            _log.info("took up what was wanted before", mounts=len(mounts))
        self._tell_engine()

    def close(self) -> None:
        """From now on every call is told that the service is being stopped. What is wanted stays on record."""
        self._closed = True
        self._tell_engine()

    async def mount(self, mount: WantedMount, *, secrets: Mapping[str, bytes]) -> Standing:
        """Until it is mounted. Raises PathTaken, Withdrawn, MountFailed, OperationPending, ShuttingDown, OSError."""
        request = hashlib.sha256(msgspec.json.encode((mount, secrets), order="deterministic")).digest()
        return await self._operations.run(
            f"the mount of /{mount.path}", request=request, work=functools.partial(self._mount, mount, secrets)
        )

    async def unmount(self, path: str) -> None:
        """Until nothing of it is left. Raises NothingMounted, ShuttingDown, OSError."""
        await self._operations.run(f"the unmount of /{path}", request=path, work=functools.partial(self._unmount, path))

    @property
    def version(self) -> int:
        """Moves when `all` may have changed."""
        return self._engine.version

    async def newer_than(self, version: int) -> int:
        """Raises ShuttingDown."""
        version = await self._engine.newer_than(version)
        self._refuse_if_closed()
        return version

    def all(self) -> list[Standing]:
        """Sorted by path."""
        reports = self._reports()
        found = (self._standing(mount, reports.get(mount.claim_uid)) for mount in self._wanted.values())
        return sorted(found, key=lambda standing: standing.mount.path)

    # --- operations, of which no two run at once for the same path, but for one mount and one unmount

    async def _mount(self, mount: WantedMount, secrets: Mapping[str, bytes]) -> Standing:
        """1. Look whether the path is free. 2. Keep the credentials. 3. Put it on record. 4. Tell the engine. 5. Wait. One that is
        new and fails is undone; one that was there before stays, and goes on being tried."""
        async with self._deciding:
            self._refuse_if_closed()
            self._refuse_if_taken(mount)
            is_new = mount.path not in self._wanted
            if secrets:
                await self._executor.run("records", self._keep, mount.credentials, secrets)
                self._kept.add(mount.credentials)
                self._engine.refresh_credentials()
            if is_new:
                await self._add(mount)
            else:
                self._engine.retry(mount.source)
        try:
            return await self._mounted(mount)
        except MountFailed as problem:
            if is_new:
                _log.info("withdrawn", path=mount.path, reason=problem.reason)
                with contextlib.suppress(NothingMounted):
                    await self.unmount(mount.path)
            raise

    async def _unmount(self, path: str) -> None:
        """1. Tell the engine. 2. Wait until it is gone. 3. Strike it out, and forget its credentials. Not before: an unmount that
        is cut off leaves a mount that goes on, and whose data is kept."""
        mount = self._wanted.get(path)
        if mount is None:
            raise NothingMounted(f"nothing is mounted at /{path}")
        self._leaving.add(path)
        self._tell_engine()
        await self._gone(mount)
        try:
            async with self._deciding:
                await self._want({other: m for other, m in self._wanted.items() if other != path})
        finally:
            self._leaving.discard(path)
            self._tell_engine()
        await self._forget_credentials(mount)

    async def _add(self, mount: WantedMount) -> None:
        try:
            await self._want({**self._wanted, mount.path: mount})
        except OSError:
            await self._forget_credentials(mount)
            raise

    async def _forget_credentials(self, mount: WantedMount) -> None:
        """Those that came with a call. In turn with other work on them: a mount that comes right after keeps its own."""
        if _needs_a_caller(mount):
            self._kept.discard(mount.credentials)
            await self._executor.run("records", self._forget, mount.credentials)

    async def _want(self, wanted: dict[str, WantedMount]) -> None:
        await self._executor.run("records", self._records.write, tuple(wanted.values()))
        self._wanted = wanted
        self._tell_engine()

    async def _mounted(self, mount: WantedMount) -> Standing:
        version = self._engine.version
        while True:
            self._refuse_if_closed()
            if mount.path in self._leaving or self._wanted.get(mount.path) != mount:
                raise Withdrawn(f"/{mount.path} was unmounted meanwhile")
            standing = self._standing(mount, self._reports().get(mount.claim_uid))
            if has_failed(standing.report):
                raise MountFailed(standing.report.reason, standing.report.message)
            if standing.report.phase is Phase.MOUNTED:
                return standing
            version = await self._engine.newer_than(version)

    async def _gone(self, mount: WantedMount) -> None:
        version = self._engine.version
        while True:
            self._refuse_if_closed()
            if mount.claim_uid not in self._reports():
                return
            version = await self._engine.newer_than(version)

    # --- what is decided at once

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ShuttingDown("the service is being stopped; what is mounted comes back when it is started again")

    def _refuse_if_taken(self, mount: WantedMount) -> None:
        for path, other in self._wanted.items():
            if not overlap(path, mount.path) or other == mount and path not in self._leaving:
                continue
            if path in self._leaving:
                raise OperationPending(f"/{path} is being unmounted; ask again when that has ended")
            what = "something else is" if path == mount.path else f"/{path} is"
            raise PathTaken(f"{what} mounted there; unmount it, or choose a path outside of it")

    def _tell_engine(self) -> None:
        self._engine.set_wanted([mount for path, mount in self._wanted.items() if path not in self._leaving])

    # --- what is seen

    def _reports(self) -> dict[str, MountReport]:
        return {report.claim_uid: report for report in self._engine.reports()}

    def _standing(self, mount: WantedMount, report: MountReport | None) -> Standing:
        if report is None:
            phase = Phase.UNMOUNTING if mount.path in self._leaving else Phase.PENDING
            return Standing(mount, decide.report(mount, phase))
        if report.phase is Phase.FAILED and _needs_a_caller(mount) and mount.credentials not in self._kept:
            return Standing(mount, msgspec.structs.replace(report, reason="CredentialsLost", message=_LOST))
        return Standing(mount, msgspec.structs.replace(report, message=words.own(report.message)))

    # --- credentials that came with calls; all of it in a thread

    def _keep(self, name: str, secrets: Mapping[str, bytes]) -> None:
        directory = self._stage.credentials_directory(name)
        os.makedirs(self._stage.sent_credentials, mode=0o700, exist_ok=True)
        stage.write_secrets(directory, secrets)
        for key in set(os.listdir(directory)) - set(secrets):
            os.unlink(os.path.join(directory, key))

    def _forget(self, name: str) -> None:
        directory = self._stage.credentials_directory(name)
        with contextlib.suppress(FileNotFoundError):
            stage.remove_secrets(directory, dict.fromkeys(os.listdir(directory), b""))

    def _find_kept(self, wanted: frozenset[str]) -> set[str]:
        """Those that are still there, because memory outlived the process; others than `wanted` are forgotten."""
        try:
            found = set(os.listdir(self._stage.sent_credentials))
        except FileNotFoundError:
            return set()
        for name in found - wanted:
            self._forget(name)
        return found & wanted


def has_failed(report: MountReport) -> bool:
    """Whether there is nothing to wait for. Some clients try a storage that is not there for minutes; meanwhile it is asked, and
    says why."""
    return report.phase in (Phase.FAILED, Phase.CONFLICT) or (report.phase is Phase.MOUNTING and report.reason in CODE_OF_REASON)


def _needs_a_caller(mount: WantedMount) -> bool:
    """For its credentials."""
    return mount.credentials.startswith(SENT) and mount.credentials != NO_CREDENTIALS
