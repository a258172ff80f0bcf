"""The process in a mount pod.

Started by kubelet, and ended by it: on SIGTERM it goes on serving until nothing is wanted any more, it is released, the cluster
has no dynvol any more, or the grace period is nearly over; then it flushes, unmounts and leaves with 0. It never leaves with 0
unasked, so that kubelet starts it again; unless its pod is no more, when it makes way for a successor, and touches nothing that
may be that one's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Final

import msgspec

from dynvol.mount import caches, paths
from dynvol.mount.executor import MountExecutor
from dynvol.mount.watch import MountWatcher
from dynvol.mounter import http, stage
from dynvol.mounter.ask import ask
from dynvol.mounter.engine import Engine
from dynvol.mounter.feed import Feed
from dynvol.mounter.limits import Memory, memory_limit
from dynvol.mounter.podapi import Denied, Known, PodApi, PodApiProblem, PodGone, Server
from dynvol.mounter.process import Children
from dynvol.mounter.secretwatch import watching
from dynvol.mounter.stage import Stage
from dynvol.mounter.tools import Timing, Tools
from dynvol.observe import logs

_log: Final = logs.get(__name__)

_LAST_REPORT: Final = 2.0
"""Seconds that the last report may take; the node process sees the mount table too."""
_HANDOVER: Final = 15.0
"""Seconds for uploading what a successor would upload too: meanwhile nothing is mounted."""
_LOOK_AGAIN: Final = 0.5
"""Seconds between looks whether we may begin: that an earlier mounter has ended, no event tells."""
_LAST_KILL: Final = 3.0
"""Seconds that clients may take to end once they were given up."""


class Settings(msgspec.Struct, frozen=True):
    stage: Stage
    server: Server
    namespace: str
    pod: str
    grace: float = 30.0
    """The pod's termination grace period, in seconds."""
    timing: Timing = Timing()
    forgotten: float = 60.0
    """Seconds for which the API server may not know our pod before that is believed."""

    @property
    def reserve(self) -> float:
        """The end of the grace period, kept for flushing and unmounting what is still in use then."""
        return min(60.0, self.grace / 2)


async def serve(settings: Settings) -> None:
    """Until asked to leave. Whatever goes wrong unexpectedly is raised: kubelet starts the container again."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    api = PodApi(settings.server, namespace=settings.namespace, name=settings.pod)
    with contextlib.ExitStack() as opened:
        known = await _may_begin(settings, api, opened, asked)
        if known is None:
            return
        opened.enter_context(stage.opened(settings.stage))
        async with (
            Children(adopting=os.getpid() == 1) as children,
            MountWatcher() as watcher,
            MountExecutor(threads=32, drain=2.0) as executor,
        ):
            tools = Tools(settings.stage, children, watcher, executor, ask, Memory(memory_limit()), settings.timing)
            engine = Engine(tools)
            engine.adopt(caches.recorded(settings.stage.cache))
            opened.enter_context(watching(settings.stage.credentials, engine.refresh_credentials))
            feed = Feed(api, engine, known=known)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(engine.run(), name="engine")
                talking = (
                    tasks.create_task(feed.follow(), name="follow the pod"),
                    tasks.create_task(feed.report(), name="report"),
                )
                await _any(asked, feed.superseded, feed.deleted)
                # The signal that a doomed pod's mounter has missed came before it could hear any.
                asked_at = began if feed.doomed else loop.time()
                end = asked_at + settings.grace - _LAST_REPORT - _LAST_KILL
                await _until_dispensable(engine, feed, within=asked_at + settings.grace - settings.reserve - loop.time())
                # A successor waits, and uploads the rest.
                followed = feed.superseded.is_set() or feed.released.is_set()
                leave = engine.yield_ if feed.superseded.is_set() else engine.close
                await leave(within=min(end - loop.time(), _HANDOVER) if followed else end - loop.time())
                for task in talking:
                    task.cancel()
                with contextlib.suppress(TimeoutError, PodApiProblem, http.HttpProblem, OSError):
                    async with asyncio.timeout(_LAST_REPORT):
                        await feed.report_now()
    _log.info("left as asked")


class Forgotten(Exception):
    """The API server has not known our pod since we began."""


async def _may_begin(settings: Settings, api: PodApi, opened: contextlib.ExitStack, asked: asyncio.Event) -> Known | None:
    """Waits until the API server knows our pod, as it then is, and no other mounter works in these caches. None if asked to leave
    meanwhile.

    A pod that was deleted by force may live on for a while beside its successor, or even be started by a kubelet that has not heard
    of it yet, and be told to end before it listens. What it would find mounted is its successor's. Raises Forgotten where this
    lasts: kubelet, which waits for its end, would wait for all of the grace period.
    """
    place, loop = settings.stage, asyncio.get_running_loop()
    os.makedirs(place.cache, mode=0o700, exist_ok=True)
    said, known_at = "", loop.time()
    while not asked.is_set():
        try:
            known = await api.read()
            known_at = loop.time()
            opened.enter_context(caches.holding(place.cache))
            return known
        except caches.Held:
            why = "an earlier mounter still works in the caches"
        except (PodGone, Denied) as problem:
            why = str(problem)
            if loop.time() - known_at > settings.forgotten:
                raise Forgotten(why) from problem
        except (PodApiProblem, http.HttpProblem, OSError) as problem:
            why, known_at = str(problem), loop.time()
        if why != said:
            _log.info("waiting before anything is touched", why=why)
            said = why
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_AGAIN):
                await asked.wait()
    return None


async def _until_dispensable(engine: Engine, feed: Feed, *, within: float) -> None:
    """A drained node ends the mount pod before the pods that use it: serve them as long as there is time."""
    _log.info("asked to leave; serving until nothing is wanted", at_most_seconds=within)
    idle = asyncio.create_task(engine.until_idle(), name="idle")
    dispensable = asyncio.create_task(_any(feed.released, feed.superseded), name="released or superseded")
    disowned = asyncio.create_task(feed.disowned(), name="disowned")
    waits = (idle, dispensable, disowned)
    try:
        await asyncio.wait(waits, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()


async def _any(*events: asyncio.Event) -> None:
    """Until one of them is set."""
    waits = [asyncio.create_task(event.wait(), name="event") for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()


def main(*, root: str, credentials: str, run: str, cache: str, api_server: str, ca_file: str, token_file: str, grace: float) -> int:
    """Returns the exit status."""
    environment = os.environ
    server = Server.of(api_server, ca_file=ca_file, token_file=token_file) if api_server else Server.in_cluster(environment)
    settings = Settings(
        stage=Stage(paths.canonical(root), paths.canonical(run), paths.canonical(cache), credentials),
        server=server,
        namespace=environment["POD_NAMESPACE"],
        pod=environment["POD_NAME"],
        grace=grace,
    )
    try:
        asyncio.run(serve(settings))
    except Forgotten as why:
        _log.error("the API server does not know this pod", why=str(why))
        return 1
    return 0
