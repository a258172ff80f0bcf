"""Annotations of the own pod in, reports out. The one part of the mounter that knows how it is told what to do.

While the API is away the engine goes on with what was wanted last; when it comes back the report is written again. At the
start there is nothing to go on with, so this waits for the API as long as it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from typing import Final

from dynvol.api import mounts, names
from dynvol.api.mounts import MalformedAnnotation, MountReport, Phase
from dynvol.observe import logs

from . import http
from .engine import Engine
from .podapi import Denied, Expired, Known, Pod, PodApi, PodApiProblem, PodGone

_log: Final = logs.get(__name__)

_FIRST_PAUSE: Final = 0.5
_LAST_PAUSE: Final = 15.0
_SETTLE: Final = 0.02
"""Seconds to wait for more after a change: a client that starts quickly is then one report, not two."""
_REPORTS_PER_SECOND: Final = 5
_LEISURE: Final = 1.0
"""Seconds that a report may wait for more of its kind which says no more than the mount table and the list of wanted mounts do."""
_ORDINARY: Final = frozenset({Phase.PENDING, Phase.MOUNTING, Phase.MOUNTED})
_GONE_FOR_GOOD: Final = 2
"""How often in a row the API must say that the own pod is gone before it is believed."""
_DISOWNED_AFTER: Final = 3
"""How often in a row the API must deny us, `_ASK_AGAIN` seconds apart."""
_ASK_AGAIN: Final = 5.0
_QUIET_WATCH: Final = 10.0
"""A watch that lasted so many seconds is taken up again at once, though it told nothing."""


class Feed:
    """Two endless loops. `released` is set when the pod is told to leave without waiting; `superseded` when it is no more, though
    this process still runs (it was deleted by force): whatever is mounted from now on is a successor's affair."""

    def __init__(self, api: PodApi, engine: Engine, *, known: Known | None = None) -> None:
        self._api = api
        self._engine = engine
        self._known = known
        """What was read of the pod before, and needs not be read again: that is a connection more, before anything is mounted."""
        self._uid = ""
        self._wanted: str | None = None
        self._present = ""
        """The report that the pod carried when it was last seen or written."""
        self._said: dict[str, MountReport] = {}
        """What is in it."""
        self._due: float | None = None
        """By when, on the loop's clock, it is to say the ordinary too that has not been said yet."""
        self._written: Final[deque[float]] = deque(maxlen=_REPORTS_PER_SECOND)
        """When the last reports were written."""
        self.told: Final = asyncio.Event()
        """Set once the first list of wanted mounts was seen."""
        self.deleted: Final = asyncio.Event()
        """Set when the pod is on its way out. Kubelet says so by SIGTERM, once; process 1 of a container that has just begun to
        start is deaf to it."""
        self.doomed = False
        """It was so when the pod was first seen."""
        self.released: Final = asyncio.Event()
        self.superseded: Final = asyncio.Event()

    async def follow(self) -> None:
        """Read the pod, watch it, and start over when the watch ends or breaks. Never without a pause: a server may end watches
        as soon as they begin."""
        pause, absences = _FIRST_PAUSE, 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                pod, version = self._known or await self._api.read()
                self._known = None
                absences = 0
                self._take(pod)
                async with contextlib.aclosing(self._api.watch(version)) as changes:
                    async for changed in changes:
                        pause = _FIRST_PAUSE
                        self._take(changed)
            except Expired:
                _log.debug("the watch's version expired")
            except PodGone as problem:
                absences += 1
                if absences >= _GONE_FOR_GOOD:
                    self._supersede(str(problem))
            except Denied as problem:
                _log.warning("cannot follow the own pod", error=str(problem), retry_seconds=pause)
                # The token is bound to the pod: once that was seen to go, this is how the API says that it is gone.
                if absences:
                    self._supersede(str(problem))
            except (PodApiProblem, http.HttpProblem, OSError) as problem:
                _log.warning("cannot follow the own pod", error=str(problem), retry_seconds=pause)
            pause = _FIRST_PAUSE if loop.time() - began > _QUIET_WATCH else pause
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_PAUSE)

    async def disowned(self) -> None:
        """Returns when the API has denied us for a while: then dynvol was removed from the cluster, and there is no one left who
        could say that nothing is wanted any more. It is asked, for a watch that is open is not ended by that."""
        denials = 0
        while denials < _DISOWNED_AFTER:
            await asyncio.sleep(_ASK_AGAIN)
            try:
                await self._api.read()
                denials = 0
            except Denied:
                denials += 1
            except (PodApiProblem, http.HttpProblem, OSError):
                denials = 0

    async def report(self) -> None:
        """Write the report when it has changed: at once, but not more than five times within a second; what is ordinary, later."""
        await self.told.wait()
        pause = _FIRST_PAUSE
        while True:
            version = self._engine.version
            try:
                if (patience := self._patience()) <= 0.0:
                    await self.report_now()
                    pause, patience = _FIRST_PAUSE, math.inf
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience if patience < math.inf else None):
                        await self._engine.newer_than(version)
                await asyncio.sleep(max(0.0 if self._is_waited_for() else _SETTLE, self._must_wait()))
            except PodGone as problem:
                _log.info("no one to report to", error=str(problem))
                await asyncio.sleep(_LAST_PAUSE)
            except (PodApiProblem, http.HttpProblem, OSError) as problem:
                _log.warning("cannot report", error=str(problem), retry_seconds=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LAST_PAUSE)

    async def report_now(self) -> None:
        """Write the report if it differs from what the pod carries."""
        text = mounts.encode(self._engine.reports())
        if self._uid and text != self._present:
            await self._api.annotate({names.REPORT_ANNOTATION: text}, uid=self._uid)
            self._carries(text)
            self._written.append(asyncio.get_running_loop().time())

    def _carries(self, text: str) -> None:
        self._present, self._due = text, None
        with contextlib.suppress(MalformedAnnotation):
            self._said = {report.key: report for report in mounts.decode_reports(text)}
            self._engine.on_record(self._said)

    def _patience(self) -> float:
        """Seconds for which the report need not be written: none if there is anything in it that cannot wait, endless if nothing
        has changed."""
        now = {report.key: report for report in self._engine.reports()}
        if now == self._said:
            return math.inf
        if self._said.keys() - now.keys() or any(self._is_pressing(report) for report in now.values()):
            return 0.0
        at = asyncio.get_running_loop().time()
        self._due = at + _LEISURE if self._due is None else self._due
        return self._due - at

    def _is_pressing(self, report: MountReport) -> bool:
        """A mount that comes up as it should shows in the mount table, where the node process sees it sooner than here. All else
        it learns from us alone, and what was said already has to be put right."""
        before = self._said.get(report.key)
        if before is not None:
            return report != before
        return report.phase not in _ORDINARY or bool(report.reason) or report.restarts > 0

    def _is_waited_for(self) -> bool:
        """Whether something is to go, and shows until that has been reported."""
        leaving = (report for report in self._engine.reports() if report.phase is Phase.UNMOUNTING)
        return any((said := self._said.get(report.key)) is None or said.phase is not Phase.UNMOUNTING for report in leaving)

    def _must_wait(self) -> float:
        """Seconds until one more report is within the limit."""
        full = len(self._written) == _REPORTS_PER_SECOND
        return self._written[0] + 1 - asyncio.get_running_loop().time() if full else 0.0

    def _take(self, pod: Pod) -> None:
        """A pod of another uid is a successor of the same name, whose wishes are not for us."""
        metadata = pod.metadata
        if self._uid and metadata.uid != self._uid:
            self._supersede("another pod of the same name took its place")
            return
        if not self._uid:
            self._uid = metadata.uid
            self._carries(metadata.annotations.get(names.REPORT_ANNOTATION, ""))
        if metadata.deletion_timestamp is not None and not self.deleted.is_set():
            self.doomed = not self.told.is_set()
            self.deleted.set()
        if names.RELEASE_ANNOTATION in metadata.annotations:
            self.released.set()
        self._engine.set_overdue(filter(None, metadata.annotations.get(names.OVERDUE_ANNOTATION, "").split(",")))
        text = metadata.annotations.get(names.WANTED_ANNOTATION, "")
        if text != self._wanted:
            self._tell_engine(text)

    def _supersede(self, why: str) -> None:
        """Only a pod that was there can be gone: at the start, the API may just not know it yet."""
        if self._uid and not self.superseded.is_set():
            _log.warning("the own pod is no more", why=why)
            self.superseded.set()

    def _tell_engine(self, text: str) -> None:
        self._wanted = text
        try:
            wanted = mounts.decode_wanted(text)
        except MalformedAnnotation as problem:
            _log.error("the wanted mounts cannot be read, those of before stay", error=str(problem))
            return
        _log.info("wanted", mounts=len(wanted))
        self._engine.set_wanted(wanted)
        self.told.set()
