"""The life of one FUSE client: started, watched, started again when it dies, and ended without losing data.

A session mounts at a private place only. Showing that mount to programs, and hiding it, is the engine's; `state` and `device`
say whether there is something to show. The session is told to end after its mount is hidden, and holds the private mount
until all that was written and closed is in the storage.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec

from dynvol.api.mounts import WantedMount
from dynvol.mount import fuse, providers, syscalls
from dynvol.mount.errors import MountProblem, NotMounted
from dynvol.mount.executor import MountExecutor
from dynvol.mount.mountinfo import Mount, MountTable
from dynvol.mount.providers.contract import Answer, Client, Command, Finding, Place, Request, Silence, Unusable
from dynvol.mount.watch import MountWatcher
from dynvol.observe import logs

from . import stage
from .decide import SessionView, State
from .process import Child, Children
from .stage import Stage

_log: Final = logs.get(__name__)

Ask = Callable[[Request], Awaitable[Answer | Silence]]
"""Sends a request; has a deadline of its own, and never raises."""


class Timing(msgspec.Struct, frozen=True):
    """Durations in seconds. They are long because the smallest class runs everything at a hundredth of a core."""

    start: float = 120.0
    """A client that does not serve by then is killed, and tried again."""
    slow: float = 3.0
    """A client that does not serve by then may have a reason that the storage can tell."""
    first_retry: float = 0.1
    last_retry: float = 30.0
    lasting_retry: float = 5.0
    """First pause where someone has to act before it can work."""
    stable: float = 10.0
    """A client that served this long starts with quick retries again."""
    patience: float = 2.0
    """How long a plain unmount is tried before files that are open make it a lazy one."""
    linger: float = 30.0
    """How long files that are open hold a client that is no longer wanted."""
    leave: float = 5.0
    """How long a client may take to end once nothing uses it."""
    look: float = 30.0
    """How often a client is asked whether it still answers."""
    stuck: float = 30.0
    """A client that has not answered for so long is reported."""
    hopeless: float = 120.0
    """After so much longer it is killed."""
    look_at_storage: float = 60.0
    """How long a program may take to see whether the storage is there."""
    flush_poll: float = 0.25
    flush_poll_slow: float = 2.0


class Tools(msgspec.Struct, frozen=True):
    """What all sessions share."""

    stage: Stage
    children: Children
    watcher: MountWatcher
    executor: MountExecutor
    ask: Ask
    memory_limit: int | None = None
    timing: Timing = Timing()


class Session:
    """`changed` is called after each change of `view`."""

    def __init__(self, mount: WantedMount, tools: Tools, *, changed: Callable[[], None]) -> None:
        self.mount: Final = mount
        self._tools = tools
        self._changed = changed
        self._place: Final[Place] = tools.stage.place(mount.source, memory_limit=tools.memory_limit)
        self._state = State.STARTING
        self._finding: Finding | None = None
        self._device: tuple[int, int] | None = None
        self._failures = 0
        self._restarts = -1
        self._flushed = False
        self._held_open = False
        self._hurried = False
        self._gone = False
        """Nothing of it is left, its cache neither."""
        self._stop: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        self._retry: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done while an attempt is asked for that has not begun. A failure is not told meanwhile: it is of an attempt before."""
        self._give_up: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        self.paths: Final[set[str]] = set()
        """Where it was asked for or shown."""

    @property
    def view(self) -> SessionView:
        return SessionView(
            self.mount.claim_uid,
            self.mount.spec_hash,
            self._state,
            self._device,
            self._finding,
            max(0, self._restarts),
            frozenset(self.paths),
            self._flushed,
            bool(self.mount.pod_uid),
        )

    @property
    def place(self) -> Place:
        return self._place

    def stop(self) -> None:
        """End it: flush, let go of the mount, wait for the client."""
        if not self._stop.done():
            self._stop.set_result(None)
            self._tell(State.ENDING)

    def retry(self) -> None:
        """Do not wait for the next attempt, if that is what it does."""
        if self._state is State.BROKEN and not self._stop.done():
            self._failures = 0
            if not self._retry.done():
                self._retry.set_result(None)
            self._tell(State.STARTING)

    def hurry(self) -> None:
        """The mounter is about to leave: files that are open are no reason to stay."""
        self._hurried = True

    def give_up(self) -> None:
        """The mounter has to go. What is not in the storage by now stays in the cache."""
        self.stop()
        if not self._give_up.done():
            self._give_up.set_result(None)

    def note_open_files(self) -> None:
        """The visible mount was busy and went lazily: programs still use it."""
        self._held_open = True

    async def run(self) -> None:
        """Until stopped. Whatever happens, no client, private mount or secret file is left."""
        try:
            while not self._stop.done():
                await self._unless_faulty(self._serve)
                if not self._stop.done():
                    await self._pause()
            while not self._gone and not self._give_up.done():
                await self._unless_faulty(self._flush_what_is_left)
            if not self._gone:
                _log.error("left with data that is not in the storage", source=self.mount.source, cache=self._place.cache)
        finally:
            self._clear_private_mount()

    async def _unless_faulty(self, step: Callable[[], Awaitable[None]]) -> None:
        """Take a step. A full disk, a refused system call, or a fault of ours that some user's parameters bring to light, is this
        session's failure, and no one else's."""
        try:
            await step()
        except Exception as error:
            _log.exception("a session failed", source=self.mount.source)
            self._fail(Finding("MounterFailed", f"the mount pod failed to set up the mount: {error}", lasting=False))
            if self._stop.done():
                await self._pause()

    # --- one life of the client

    async def _serve(self) -> None:
        """One life of the client.

        1. Work out its command from the credentials as they are now. 2. If it does not look itself, ask the storage. 3. Start
        it. 4. Wait until its mount answers. 5. Serve until it dies or is to stop. 6. If it is to stop, flush and release.
        7. Say why it died.
        """
        self._restarts += 1
        if self._retry.done():
            self._retry = asyncio.get_running_loop().create_future()
        started = asyncio.get_running_loop().time()
        try:
            client = self._client()
        except Unusable as problem:
            self._fail(problem.finding)
            return
        if not client.checks_storage and (finding := await self._diagnose(client)):
            self._fail(finding)
            return
        async with self._running(client) as child:
            if child is None:
                return
            if not await self._answers(client, child):
                return
            self._tell(State.SERVING)
            _log.info("serving", source=self.mount.source, pid=child.pid, seconds=round(_since(started), 3))
            served = asyncio.get_running_loop().time()
            await self._watch_over(child)
            if not child.alive and not self._stop.done():
                self._failures = 0 if _since(served) > self._tools.timing.stable else self._failures
                await self._explain_death(client, child)
                return
            await self._release(client, child)

    def _client(self) -> Client:
        provider = providers.provider(self.mount.provider)
        if provider is None:
            raise Unusable(Finding("UnknownProvider", f'this version has no storage provider "{self.mount.provider}"'))
        credentials = self._tools.stage.read_credentials(self.mount.credentials)
        return provider.client(self.mount.parameters, read_only=self.mount.read_only, credentials=credentials)

    @contextlib.asynccontextmanager
    async def _running(self, client: Client) -> AsyncIterator[Child | None]:
        """A started client; None if it could not be started. Afterwards it is dead, its mount and its secrets are gone."""
        command = client.command(self._place)
        for directory in (self._place.mountpoint, self._place.cache):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        stage.write_secrets(self._place.secrets, command.files)
        child: Child | None = None
        try:
            child = self._start(command)
            yield child
        finally:
            self._device = None
            if child is not None:
                await asyncio.shield(self._kill(child))
            self._clear_private_mount()
            stage.remove_secrets(self._place.secrets, command.files)

    def _start(self, command: Command) -> Child | None:
        device: int | None = None
        try:
            if command.takes_device:
                device = fuse.open_device(self._place.mountpoint, source=self._place.source, read_only=command.read_only)
            return self._tools.children.start(command.argv, environment=command.environment, device=device)
        except OSError as error:
            self._fail(Finding("ClientMissing", f"{command.argv[0]} cannot be started in the mount pod: {error.strerror}"))
            return None
        finally:
            # Once it has the only one, the kernel ends the connection with it.
            if device is not None:
                os.close(device)

    async def _answers(self, client: Client, child: Child) -> bool:
        """Whether the mount came up: it is in the table under our name, and a statfs of it returns.

        The kernel shows a FUSE mount before its daemon has looked at anything. The first call into it is answered when the
        daemon has; that call may hang, so it is made in a thread, which returns at the latest when the daemon is killed.
        """
        timing = self._tools.timing
        answer = asyncio.ensure_future(self._first_answer())
        try:
            await _first(answer, child.exited, self._stop, timeout=timing.slow)
            if not answer.done() and child.alive and not self._stop.done():
                if finding := await self._diagnose(client):
                    self._tell(State.STARTING, finding)
                await _first(answer, child.exited, self._stop, timeout=timing.start - timing.slow)
            if answer.done() and (answer.result() is None or client.explain(child.output)):
                # It refused, and takes a moment to end. Some threads of s3fs go on answering meanwhile; but it complains first.
                await _first(child.exited, self._stop, timeout=timing.leave)
            if self._stop.done():
                return False
            if not child.alive:
                await self._explain_death(client, child)
                return False
            self._device = answer.result() if answer.done() else None
            if self._device is None:
                self._fail(await self._diagnose(client) or Finding("ClientSlow", _SLOW.format(seconds=timing.start), lasting=False))
            return self._device is not None
        finally:
            answer.cancel()

    async def _first_answer(self) -> tuple[int, int] | None:
        """The device of the mount, once it answers; None if it answers with an error."""
        table = await self._tools.watcher.wait_for(lambda table: self._private(table) is not None)
        mount = self._private(table)
        assert mount is not None
        return mount.device if await self._statfs() else None

    def _private(self, table: MountTable) -> Mount | None:
        mount = table.at(self._place.mountpoint)
        return mount if mount is not None and mount.source == self.mount.source else None

    async def _watch_over(self, child: Child) -> None:
        """Until the client ends or is to stop. One that answers nothing any more is reported, and killed if that lasts."""
        timing = self._tools.timing
        while True:
            await _first(child.exited, self._stop, timeout=timing.look)
            if not child.alive or self._stop.done():
                return
            answer = asyncio.ensure_future(self._statfs())
            await _first(answer, child.exited, self._stop, timeout=timing.stuck)
            if not answer.done() and child.alive and not self._stop.done():
                self._tell(State.SERVING, Finding("ClientStuck", _STUCK, lasting=False))
                await _first(answer, child.exited, self._stop, timeout=timing.hopeless)
            if not answer.done():
                answer.cancel()
                if child.alive and not self._stop.done():
                    _log.warning("client is stuck, and is killed", source=self.mount.source, pid=child.pid)
                    child.signal(signal.SIGKILL)
                    await _first(child.exited, timeout=timing.leave)
                    return
            elif self._finding:
                self._tell(State.SERVING)

    async def _statfs(self) -> bool:
        """Whether the private mount answers, be it with an error. In a thread, which may hang as long as the client does."""
        try:
            await self._tools.executor.run(f"statfs {self.mount.source} {self._restarts}", os.statvfs, self._place.mountpoint)
        except OSError:
            return False
        return True

    # --- the end of a client

    async def _release(self, client: Client, child: Child) -> None:
        """Let go of a mount that no longer shows.

        1. Wait until what was closed is in the storage. 2. Unmount the private mount: it was what kept the client alive
        beside files that are open. 3. Wait for the client to end. What a program closed after 1 is found, and flushed, by
        `_flush_what_is_left`.
        """
        timing = self._tools.timing
        await self._wait_for_flush(client, child)
        self._flushed = not self._finding
        self._clear_private_mount()
        if self._held_open and child.alive and not self._hurried:
            message = f"a program still has files open; its access ends when it closes them, or after {timing.linger:.0f} s"
            self._tell(State.ENDING, Finding("FilesOpen", message))
            await _first(child.exited, self._give_up, timeout=timing.linger)
        else:
            await _first(child.exited, self._give_up, timeout=timing.leave)
        if self._flushed:
            self._tell(State.ENDING)

    async def _wait_for_flush(self, client: Client, child: Child) -> None:
        """Until nothing is left to upload, the client is dead, or the mounter gives up. `_finding` says what is left."""
        pause = self._tools.timing.flush_poll
        while count := await self._unflushed(client):
            self._tell(State.ENDING, _unflushed(count))
            await _first(child.exited, self._give_up, timeout=pause)
            if not child.alive or self._give_up.done():
                return
            pause = min(pause * 1.5, self._tools.timing.flush_poll_slow)
        self._tell(State.ENDING)

    async def _flush_what_is_left(self) -> None:
        """Remove the cache if all of it is in the storage; else start the client again, privately, to upload the rest."""
        try:
            client = self._client()
        except Unusable as problem:
            await self._wait_for_credentials(problem.finding)
            return
        if count := await self._unflushed(client):
            await self._flush_once(client, count)
            return
        self._flushed = True
        self._tell(State.ENDING)
        await self._remove_cache()

    async def _wait_for_credentials(self, finding: Finding) -> None:
        """A cache, if there is one, is kept until there are usable ones: without a client no one can tell what is in it."""
        if not await self._has_cache():
            await self._remove_cache()
            return
        self._tell(State.ENDING, finding)
        await self._pause()

    async def _flush_once(self, client: Client, count: int) -> None:
        finding = await self._diagnose(client)
        self._tell(State.ENDING, _unflushed(count, finding))
        if finding:
            self._failures += 1
            await self._pause()
            return
        async with self._running(client) as child:
            if child is not None:
                await self._wait_for_flush(client, child)
                self._clear_private_mount()
                await _first(child.exited, self._give_up, timeout=self._tools.timing.leave)

    async def _unflushed(self, client: Client) -> int:
        return await self._tools.executor.run(f"cache {self.mount.source}", client.unflushed, self._place)

    async def _has_cache(self) -> bool:
        return await self._tools.executor.run(f"cache {self.mount.source}", os.path.isdir, f"{self._place.cache}/vfsMeta")

    async def _remove_cache(self) -> None:
        self._gone = True
        await self._tools.executor.run(f"cache {self.mount.source}", stage.remove_cache, self._place.cache)

    async def _kill(self, child: Child) -> None:
        """A client that should be gone: asked, then made to. One that hangs in the kernel ends with its connection."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if child.alive:
                child.signal(number)
                if number is signal.SIGTERM:
                    child.signal(signal.SIGCONT)
                await _first(child.exited, timeout=self._tools.timing.leave / 2)
        if child.alive and (mount := self._private(self._tools.watcher.table)) is not None:
            fuse.abort_connection(mount.minor)
            await _first(child.exited, timeout=self._tools.timing.leave)
        if child.alive:
            _log.error("a client cannot be killed", source=self.mount.source, pid=child.pid)

    def _clear_private_mount(self) -> None:
        """Lazily, which blocks on nothing: no one but us can see it, and programs' open files keep it alive by themselves."""
        try:
            while True:
                syscalls.unmount(self._place.mountpoint, lazily=True)
        except NotMounted:
            with contextlib.suppress(OSError):
                os.rmdir(self._place.mountpoint)
        except MountProblem as problem:
            _log.error("a private mount stays", source=self.mount.source, error=str(problem))

    # --- what is said about it

    async def _explain_death(self, client: Client, child: Child) -> None:
        """From the storage's own answer if it has a complaint, else from the client's last words."""
        code = child.exited.result() if not child.alive else 0
        _log.warning("client ended", source=self.mount.source, code=code, output=child.output[-2000:])
        stuck = self._finding if self._finding and self._finding.reason == "ClientStuck" else None
        died = stuck or Finding("ClientExited", _died(self.mount, code), lasting=False)
        if self._device is not None:
            # It served: what shows is dead from now on, whatever the reason turns out to be.
            self._device = None
            self._tell(State.BROKEN, died)
        if -code in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT):
            self._fail(died)
        else:
            self._fail(await self._diagnose(client) or client.explain(child.output) or died)

    async def _diagnose(self, client: Client) -> Finding | None:
        """What is wrong with the storage; None if nothing is, or if no one can tell."""
        place = msgspec.structs.replace(self._place, secrets=f"{self._place.secrets}-check")
        match client.check(place, now=time.time()):
            case Request() as request:
                return client.judge(await self._tools.ask(request))
            case Command() as command:
                return await self._look(client, command, secrets=place.secrets)
        return None

    async def _look(self, client: Client, command: Command, *, secrets: str) -> Finding | None:
        """Runs a program that takes a look. One that does not end in time says nothing about the storage, but for that."""
        stage.write_secrets(secrets, command.files)
        try:
            if (child := self._start(command)) is None:
                return self._finding
            try:
                await _first(child.exited, self._give_up, timeout=self._tools.timing.look_at_storage)
                if not child.alive:
                    return client.explain(child.output) or _UNUSABLE if child.exited.result() else None
                return _NO_ANSWER
            finally:
                await asyncio.shield(self._kill(child))
        finally:
            stage.remove_secrets(secrets, command.files)

    def _fail(self, finding: Finding) -> None:
        self._failures += 1
        _log.warning("not mounted", source=self.mount.source, claim=self.mount.claim, reason=finding.reason, why=finding.message)
        self._tell(State.BROKEN, finding)

    def _tell(self, state: State, finding: Finding | None = None) -> None:
        if self._stop.done() and state is not State.ENDING:
            state, finding = State.ENDING, None
        elif self._retry.done():
            state, finding = State.STARTING, None
        if (state, finding) != (self._state, self._finding) or state is State.SERVING:
            self._state, self._finding = state, finding
            self._changed()

    async def _pause(self) -> None:
        """Before the next attempt: short at first, for users see the failure; long where someone has to act."""
        timing = self._tools.timing
        first = timing.lasting_retry if self._finding and self._finding.lasting else timing.first_retry
        pause = min(timing.last_retry, first * 2 ** min(max(0, self._failures - 1), 16))
        await _first(*((self._give_up,) if self._stop.done() else (self._stop, self._retry)), timeout=pause)


_UNUSABLE: Final = Finding("StorageRefused", "the client cannot list the storage; the mount pod's log has its words", lasting=False)
_NO_ANSWER: Final = Finding("StorageTimeout", "the storage does not answer in time; check it and the network", lasting=False)
_STUCK: Final = "the client does not answer; if that lasts it is started again. Look at the limits of the class"
_SLOW: Final = (
    "the client did not begin to serve within {seconds:.0f} s; it is tried again. Look at the limits of the class if this lasts"
)


def _died(mount: WantedMount, code: int) -> str:
    name = mount.parameters.get("mounter") or "the client"
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    hint = "; raise the class's memory limit if this happens again" if -code == signal.SIGKILL else ""
    return f"{name} {how} and is started again{hint}"


def _unflushed(count: int, cause: Finding | None = None) -> Finding:
    files = "1 file is" if count == 1 else f"{count} files are"
    why = f": {cause.message}" if cause else ""
    return Finding("UnflushedData", f"{files} not in the storage yet; the mount pod keeps what is missing and goes on trying{why}")


def _since(moment: float) -> float:
    return asyncio.get_running_loop().time() - moment


async def _first(*futures: asyncio.Future[Any], timeout: float | None = None) -> None:
    """Until one of them is done, or `timeout` seconds. None of them is cancelled."""
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
