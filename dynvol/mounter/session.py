"""One mount from start to end: its clients started, watched, started again, replaced, and ended without losing data.

A session mounts at private places only. Showing that mount to programs, and hiding it, is the engine's; `state` and `device`
say whether there is something to show. The session is told to end after its mount is hidden, and holds the private mount
until all that was written and closed is in the storage.

When the credentials change, a client with the new ones starts beside the one that serves. Once it answers, the session's device
is its own, and the engine shows that instead; the earlier client lives until the files that are open in it are closed.
"""

from __future__ import annotations

import asyncio
import errno
import math
import signal
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from dynvol.api.mounts import UNFLUSHED, WantedMount
from dynvol.mount import caches, providers
from dynvol.mount.errors import MountProblem
from dynvol.mount.providers.contract import DISK_FULL, Client, Credentials, Finding, Place, Unusable
from dynvol.observe import logs

from . import findings, flush, handover
from .decide import SessionView, State
from .life import Life
from .look import Cannot, diagnose
from .tools import Tools, first

_log: Final = logs.get(__name__)


class Session:
    """`changed` is called after each change of `view`. What an earlier one has `left` in the cache is these owners'."""

    def __init__(
        self, mount: WantedMount, tools: Tools, *, changed: Callable[[], None], left: frozenset[str] = frozenset()
    ) -> None:
        self.mount: Final = mount
        self._tools = tools
        self._changed = changed
        self._state = State.STARTING
        self._finding: Finding | None = None
        self._life: Life | None = None
        """The one that serves."""
        self._failures = 0
        self._restarts = -1
        self._flushed = False
        self._held_open = False
        self._hurried = False
        self._gone = False
        """Nothing of it is left, its cache neither."""
        self._stop: Final = _future()
        self._retry = _future()
        """Done while an attempt is asked for that has not begun. A failure is not told meanwhile: it is of an attempt before."""
        self._give_up: Final = _future()
        self._refreshed = _future()
        """Done when the credentials are to be looked at."""
        self._refusals = 0
        """How often in a row the present credentials could not be put to use."""
        self._overdue: frozenset[str] = frozenset()
        self._past: frozenset[str] = frozenset()
        """Pods that were overdue when the present client began to serve: what keeps them is not in it."""
        self._holds_up = _future()
        """Done while a pod that has used the client should have ended long ago: a program of it may wait there."""
        self._retiring: Final[dict[int, asyncio.Task[None]]] = {}
        """Clients whose successor serves, or served, by number. Their caches are nobody else's."""
        self.paths: Final[dict[str, str]] = {}
        """Where it was asked for or shown, and has to end for that: path → the claim's uid."""
        self._owners: Final = {*mount.owners, *left}
        """All whose data its cache may hold."""

    @property
    def view(self) -> SessionView:
        return SessionView(
            self.mount.spec_hash,
            self._state,
            self._life.device if self._life is not None else None,
            self._finding,
            max(0, self._restarts),
            dict(self.paths),
            frozenset(self._owners),
            self._flushed,
            bool(self.mount.pod_uid),
        )

    @property
    def on_record(self) -> WantedMount:
        """What is to be known of its cache, should nothing else be left of it."""
        return msgspec.structs.replace(self.mount, users=tuple(sorted(self._owners))) if self.mount.client else self.mount

    def admit(self, mount: WantedMount) -> bool:
        """`mount` is going to be shown too. Whether that is to be put on record first."""
        self.paths[mount.path] = mount.claim_uid
        known = mount.key in self._owners
        self._owners.add(mount.key)
        return not known and bool(self.mount.client)

    def key_at(self, path: str) -> str:
        """As `WantedMount.key`, of what it shows at a path."""
        return f"{self.paths.get(path, self.mount.claim_uid)}/{self.view.pod(path)}"

    @property
    def private_mount(self) -> str:
        """Where the mount is that is to show. Only while there is a device."""
        assert self._life is not None
        return self._life.place.mountpoint

    def stop(self) -> None:
        """End it: flush, let go of the mount, wait for the client. Before `run`: only bring home what an earlier life left."""
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

    def refresh(self) -> None:
        """The credentials may have changed."""
        if not self._refreshed.done():
            self._refreshed.set_result(None)

    def set_overdue(self, pods: frozenset[str]) -> None:
        """These pods should have ended long ago."""
        self._overdue = pods & {owner.rpartition("/")[2] for owner in self._owners}
        self._judge_holding_up()

    def note_open_files(self) -> None:
        """The visible mount was busy and went lazily: programs still use it."""
        self._held_open = True

    async def run(self) -> None:
        """Until stopped. Whatever happens, no client, private mount or secret file is left."""
        async with asyncio.TaskGroup() as tasks:
            while not self._stop.done():
                await self._unless_faulty(lambda: self._serve(tasks))
                if not self._stop.done():
                    await self._pause()
            if self._retiring:
                await asyncio.wait(tuple(self._retiring.values()))
            while not self._gone and not self._give_up.done():
                await self._unless_faulty(self._flush_what_is_left)
            if not self._gone:
                _log.error("left with data that is not in the storage", source=self.mount.source)

    async def _unless_faulty(self, step: Callable[[], Awaitable[None]]) -> None:
        """Take a step. A full disk, a refused system call, or a fault of ours that some user's parameters bring to light, is this
        session's failure, and no one else's."""
        try:
            await step()
        except Exception as error:
            _log.exception("a session failed", source=self.mount.source)
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            self._fail(DISK_FULL if full else findings.faulty(error))
            if self._stop.done():
                await self._pause()

    # --- serving

    async def _serve(self, tasks: asyncio.TaskGroup) -> None:
        """Clients, one after the other, until one dies or the session is to stop.

        1. What an earlier life left in caches that none is going to use is uploaded. 2. Work out a client from the credentials as
        they are now, once there are any; if it does not look itself, ask the storage. 3. Start it, and wait until its mount
        answers. 4. Serve, also with its successors.
        """
        self._restarts += 1
        self._no_attempt_is_due()
        number = await self._tidy_caches()
        if self._stop.done():
            return
        await self._await_credentials()
        if self._stop.done():
            return
        started = _now()
        try:
            client, credentials = self._client()
        except Unusable as problem:
            self._fail(problem.finding)
            return
        if not client.checks_storage and (finding := await self._diagnose(client, number)):
            self._fail(finding)
            return
        life = Life(self.on_record, client, credentials, number, self._tools)
        if not await self._begin(life, slowly=lambda finding: self._tell(State.STARTING, finding), failed=self._fail):
            return
        _log.info("serving", source=self.mount.source, pid=life.child.pid, seconds=round(_now() - started, 3))
        while (successor := await self._serve_with(life, tasks)) is not None:
            life = successor

    def _no_attempt_is_due(self) -> None:
        """One begins, or has come to something."""
        if self._retry.done():
            self._retry = _future()

    async def _await_credentials(self) -> None:
        """A claim's own Secret reaches a mount pod that runs already some moments after the claim does."""
        name, stage = self.mount.credentials, self._tools.stage
        while name and stage.for_pods and not self._stop.done():
            self._refreshed = _future()
            if stage.has_credentials(name):
                return
            self._tell(State.STARTING, findings.credentials_awaited(stage.whose(name)))
            await first(self._refreshed, self._stop, timeout=self._tools.timing.last_retry)

    def _client(self) -> tuple[Client, Credentials]:
        """Raises Unusable."""
        provider = providers.provider(self.mount.provider)
        if provider is None:
            raise Unusable(findings.unknown_provider(self.mount.provider))
        credentials = self._tools.stage.read_credentials(self.mount.credentials)
        return provider.client(self.mount.parameters, read_only=self.mount.read_only, credentials=credentials), credentials

    async def _begin(self, life: Life, *, slowly: Callable[[Finding], None], failed: Callable[[Finding], None]) -> bool:
        """Whether it serves. If not, it has ended, and `failed` has heard why, unless the session is to stop."""
        up = False
        try:
            life.start()
            up = await life.come_up(unless=self._stop, slowly=slowly)
            if not up and not self._stop.done():
                slow = findings.client_slow(self._tools.timing.start)
                failed(await life.diagnose() or slow if life.alive else await self._reason_of_death(life))
        except Cannot as problem:
            failed(problem.finding)
        finally:
            if not up:
                await life.end()
        return up

    async def _serve_with(self, life: Life, tasks: asyncio.TaskGroup) -> Life | None:
        """Until the client dies, or is released since the session is to stop: None. Or until a successor has come up: that.

        The successor shows from the moment on at which it is returned and served with. The earlier client then retires.
        """
        self._life, served, successor = life, _now(), None
        self._past = self._overdue
        self._judge_holding_up()
        self._no_attempt_is_due()
        self._tell(State.SERVING)
        try:
            successor = await self._watch_over(life)
            if successor is not None:
                task = tasks.create_task(self._retire(life, successor), name=f"retire {life.place.mountpoint}")
                self._retiring[life.number] = task
                task.add_done_callback(lambda _: self._retiring.pop(life.number))
            elif not life.alive and not self._stop.done():
                self._failures = 0 if _now() - served > self._tools.timing.stable else self._failures
                await self._mourn(life)
            else:
                await self._release(life)
        finally:
            if successor is None:
                self._life = None
                await life.end()
        return successor

    async def _watch_over(self, life: Life) -> Life | None:
        """Until the client dies or the session is to stop: None; or until a successor with other credentials has come up."""
        timing = self._tools.timing
        while True:
            held_up = () if life.in_kernel else (self._holds_up,)
            await first(life.child.exited, self._stop, self._refreshed, *held_up, timeout=timing.look)
            if not life.alive or self._stop.done():
                return None
            if self._refreshed.done():
                if (successor := await self._succeed(life)) is not None:
                    return successor
            elif self._holds_up.done() and not life.in_kernel:
                await self._look_closely_at(life)
            else:
                await self._look_at(life)

    async def _look_at(self, life: Life) -> None:
        """One that answers nothing any more is reported, and killed if that lasts. Killing helps nobody who waits for the kernel:
        its client goes on by itself when the server is back, and what was to wait no longer has failed by then."""
        timing = self._tools.timing
        answer = asyncio.ensure_future(life.statfs())
        await first(answer, life.child.exited, self._stop, timeout=timing.stuck)
        if not answer.done() and life.alive and not self._stop.done():
            self._tell(State.SERVING, findings.SERVER_SILENT if life.in_kernel else findings.CLIENT_STUCK)
            if life.in_kernel:
                await first(answer, life.child.exited, self._stop)
            else:
                await first(answer, life.child.exited, self._stop, self._holds_up, timeout=timing.hopeless)
        if not answer.done():
            answer.cancel()
            if life.alive and not self._stop.done():
                await self._put_an_end_to(life)
        elif self._finding and not self._finding.harmless:
            self._tell(State.SERVING)

    async def _look_closely_at(self, life: Life) -> None:
        """While a pod cannot end, most likely as its programs wait in the client, which others use too. Requests fail all at once
        or not at all. So the client is killed, but not before it is of no use to the others either: requests wait in it, and it
        answers nothing, or its storage has said nothing for a while."""
        timing, silent_since = self._tools.timing, math.inf
        while self._holds_up.done() and life.alive and not self._stop.done() and not self._refreshed.done():
            if not life.holds_requests():
                silent_since = math.inf
            else:
                await self._look_at(life)
                if not life.alive:
                    return
                asked = _now()
                silent_since = min(silent_since, asked) if await life.diagnose() else math.inf
            if _now() - silent_since >= timing.silent and not self._stop.done():
                self._tell(State.SERVING, findings.STORAGE_SILENT)
                await self._put_an_end_to(life)
                return
            await first(life.child.exited, self._stop, self._refreshed, timeout=timing.silent_poll)

    def _judge_holding_up(self) -> None:
        if not self._overdue - self._past:
            self._holds_up = _future() if self._holds_up.done() else self._holds_up
        elif not self._holds_up.done():
            self._holds_up.set_result(None)

    async def _put_an_end_to(self, life: Life) -> None:
        """All that waits for it fails. One that hangs in the kernel ends with its connection."""
        _log.warning("client is of no use, and is killed", source=self.mount.source, pid=life.child.pid)
        life.child.signal(signal.SIGKILL)
        await first(life.child.exited, timeout=self._tools.timing.leave)
        await life.end()

    # --- other credentials

    async def _succeed(self, life: Life) -> Life | None:
        """A client with the present credentials, once it serves beside `life`; None if there is none to be, now.

        1. The storage must accept the new credentials; until it does, the earlier ones are used. 2. All that was written must be in
        the storage, for the successor would not see it. While the earlier credentials work, that is waited for. When they no longer
        do, nothing but an end helps: the next client finds the cache, and the files that are open fail. 3. The successor comes up.
        4. What was written meanwhile is waited for too. Then the successor is held, until `_retire` lets it go.
        """
        self._refreshed = _future()
        try:
            client, credentials = self._client()
        except Unusable as problem:
            self._not_yet(problem.finding)
            return None
        if credentials == life.credentials:
            self._refusals = 0
            self._tell(State.SERVING)
            return None
        if finding := await self._diagnose(client, life.number + 1):
            self._not_yet(finding)
            return None
        if count := await self._wait_for_calm(life):
            if not await self._is_of_use(life):
                _log.warning("a client's credentials no longer work; it starts again with the new ones", source=self.mount.source)
                life.stop()
                await first(life.child.exited, timeout=self._tools.timing.leave)
            else:
                self._not_yet(findings.uploading(count))
            return None
        successor = Life(self.on_record, client, credentials, life.number + 1, self._tools)
        if not await self._begin(successor, slowly=lambda _: None, failed=self._not_yet):
            return None
        if count := await self._wait_for_calm(life):
            await successor.end()
            self._not_yet(findings.uploading(count))
            return None
        successor.hold()
        self._refusals = 0
        _log.info("serving with other credentials", source=self.mount.source, pid=successor.child.pid)
        return successor

    def _not_yet(self, finding: Finding) -> None:
        """The present credentials cannot be put to use; the earlier ones are, and there will be another attempt."""
        self._refusals += 1
        asyncio.get_running_loop().call_later(self._backoff(finding, self._refusals), self.refresh)
        _log.warning("not serving with the new credentials yet", source=self.mount.source, why=finding.message)
        self._tell(State.SERVING, findings.credentials_pending(self._tools.stage.whose(self.mount.credentials), finding))

    async def _wait_for_calm(self, life: Life) -> int:
        """How many files are not uploaded, after waiting for there to be none as long as files that are open may hold one up."""
        deadline, pause = _now() + self._tools.timing.linger, self._tools.timing.flush_poll
        while (count := await life.unflushed()) and _now() < deadline and life.alive and not self._stop.done():
            await first(life.child.exited, self._stop, timeout=pause)
            if not await self._is_of_use(life):
                break
            pause = min(pause * 1.5, self._tools.timing.flush_poll_slow)
        return count

    async def _is_of_use(self, life: Life) -> bool:
        """Whether a client's own credentials may still work."""
        finding = await life.diagnose()
        return finding is None or not finding.lasting

    async def _retire(self, life: Life, successor: Life) -> None:
        """Let go of a client whose successor serves: once it shows nowhere, and its files are closed. What was written through
        these is uploaded by another one, should it not be by then."""
        hidden = asyncio.ensure_future(handover.until_hidden(life, self._tools))
        try:
            try:
                await handover.settle(life, self._tools, hidden=hidden, unless=self._stop)
            finally:
                successor.go_on()
            await first(hidden, life.child.exited, self._stop)
            await self._retire_now(life)
        except (OSError, MountProblem):
            _log.exception("a client that has a successor cannot be taken down; its cache stays", source=self.mount.source)
        finally:
            hidden.cancel()
            await life.end()
            if self._life is not None:
                self._life.forget()

    async def _retire_now(self, life: Life) -> None:
        timing = self._tools.timing
        await flush.until_closed(life, timing, unless=self._stop, within=timing.retire)
        life.clear_private_mount()
        await first(life.child.exited, self._stop, timeout=timing.retire)
        if self._stop.done():
            await first(life.child.exited, self._give_up, timeout=timing.leave if self._hurried else timing.linger)
        await life.end()
        while not self._stop.done() and not await self._bring_home(life.number):
            pass

    # --- the end of a client

    async def _release(self, life: Life) -> None:
        """Let go of a mount that no longer shows.

        1. Wait until what was closed is in the storage. 2. Unmount the private mount: it was what kept the client alive
        beside files that are open. 3. Wait for the client to end. What a program closed after 1 is found, and flushed, by
        `_flush_what_is_left`.
        """
        timing = self._tools.timing
        await self._wait_for_flush(life, unless=self._give_up, in_use=self._held_open)
        self._flushed = not self._finding and not self._retiring
        if life.in_kernel and not self._flushed:
            # Its own unmount would wait for the server. Once it is dead, its mount is taken away by force.
            _log.error("unmounted by force, with data that the server may not have", source=self.mount.source)
            life.child.signal(signal.SIGKILL)
            return
        if self._held_open and life.alive and not self._hurried:
            self._tell(State.ENDING, findings.files_open(timing.linger))
            deadline = _now() + timing.linger
            await flush.until_closed(life, timing, unless=self._give_up, within=timing.linger)
            life.clear_private_mount()
            await first(life.child.exited, self._give_up, timeout=max(0.0, deadline - _now()))
        else:
            life.clear_private_mount()
            await first(life.child.exited, self._give_up, timeout=timing.leave)
        if self._flushed:
            self._tell(State.ENDING)

    async def _wait_for_flush(self, life: Life, *, unless: asyncio.Future[Any], in_use: bool = False) -> None:
        """`_finding` says what is left."""

        def say(count: int, cause: Finding | None) -> None:
            self._tell_of_leftovers(findings.unflushed(count, cause))

        whole = await flush.until_flushed(life, self._tools.timing, unless=unless, say=say, in_use=in_use)
        if whole and self._finding and self._finding.reason == UNFLUSHED:
            self._tell(self._state)

    async def _flush_what_is_left(self) -> None:
        """Bring home what is in the caches, and remove them."""
        for number in await self._numbers():
            if not await self._bring_home(number):
                return
        self._flushed = self._gone = True
        self._tell(State.ENDING)
        await self._tools.executor.run(f"cache {self.mount.source}", caches.remove, self._tools.stage.cache, self.mount.source)

    async def _tidy_caches(self) -> int:
        """The number of the cache to serve with: the newest there is. Of others that no client is retiring from there are only if a
        mounter died meanwhile; what they hold comes first, for none else would see it."""
        *others, newest = await self._numbers() or [0]
        for number in others:
            if number in self._retiring:
                continue
            while not self._stop.done() and not await self._bring_home(number):
                pass
        return newest

    async def _numbers(self) -> list[int]:
        found: list[int] = await self._in_thread(caches.numbers, self._tools.stage.cache, self.mount.source)
        return found

    async def _bring_home(self, number: int) -> bool:
        """Remove a cache, if all of it is in the storage. Else upload the rest, through a client that nobody sees; False."""
        cache = self._place(number).cache
        if not (count := await self._in_thread(caches.waiting, cache, self.mount)):
            await self._in_thread(caches.remove_one, cache)
            return True
        try:
            client, credentials = self._client()
            finding = await self._diagnose(client, number)
        except Unusable as problem:
            finding = problem.finding
        if finding:
            self._tell_of_leftovers(findings.unflushed(count, finding))
            self._failures += 1
            await self._pause()
            return False
        self._tell_of_leftovers(findings.unflushed(count))
        newer = [other for other in await self._numbers() if other > number]
        await self._upload(Life(self.on_record, client, credentials, number, self._tools, newer=newer))
        return False

    async def _upload(self, life: Life) -> None:
        try:
            life.start()
            await self._wait_for_flush(life, unless=self._give_up if self._stop.done() else self._stop)
            life.clear_private_mount()
            await first(life.child.exited, self._give_up, timeout=self._tools.timing.leave)
        except Cannot as problem:
            self._fail(problem.finding)
            await self._pause()
        finally:
            await life.end()

    async def _diagnose(self, client: Client, number: int) -> Finding | None:
        """What the storage says to a client that has not been started."""
        return await diagnose(client, self._place(number), self._tools)

    def _place(self, number: int) -> Place:
        return self._tools.stage.place(self.mount.source, number=number, memory=self._tools.memory.least)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await self._tools.executor.run(f"cache {self.mount.source}", function, *arguments)

    # --- what is said about it

    def _tell_of_leftovers(self, finding: Finding) -> None:
        """As what keeps the session from serving or from ending; or, while it serves, by the way."""
        if self._state is State.SERVING:
            finding = Finding(finding.reason, finding.message, finding.lasting, harmless=True)
        self._tell(self._state, finding)

    async def _mourn(self, life: Life) -> None:
        """Say why a client that served died."""
        found = self._finding
        for_it = (findings.CLIENT_STUCK, findings.STORAGE_SILENT)
        died = found if found in for_it else self._death_of(life)
        # What shows is dead from now on, whatever the reason turns out to be.
        self._life = None
        self._tell(State.BROKEN, died)
        self._fail(await self._reason_of_death(life, otherwise=died))

    async def _reason_of_death(self, life: Life, *, otherwise: Finding | None = None) -> Finding:
        """From the storage's own answer if it has a complaint, else from the client's last words; the kernel's come first."""
        code, output = life.child.exited.result(), life.child.output
        _log.warning("client ended", source=self.mount.source, code=code, output=output[-2000:])
        died = otherwise or self._death_of(life)
        if -code in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT):
            return died
        said = life.client.explain(output)
        return (said if life.in_kernel else None) or await life.diagnose() or said or died

    def _death_of(self, life: Life) -> Finding:
        return findings.client_exited(self.mount, life.child.exited.result())

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
        """Before the next attempt."""
        until = (self._give_up,) if self._stop.done() else (self._stop, self._retry)
        await first(*until, timeout=self._backoff(self._finding, self._failures))

    def _backoff(self, finding: Finding | None, failures: int) -> float:
        """Seconds: short at first, for users see the failure; long where someone has to act."""
        timing = self._tools.timing
        shortest = timing.lasting_retry if finding and finding.lasting else timing.first_retry
        return min(timing.last_retry, shortest * 2.0 ** min(max(0, failures - 1), 16))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()
