"""What to do next, worked out from what is wanted, what shows, and what the sessions say. No I/O, no clock.

The engine calls `decide` after every change and applies what it says. Decisions are of the level, not of the edge: whatever
was missed or failed comes out again the next time, and when nothing comes out, the world is as it should be.

Words: a *session* runs one client and has one private mount, named by its source. A mount *shows* at a path below the root
if a bind of the private mount is there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import Enum

import msgspec

from dynvol.api.mounts import MountReport, Phase, WantedMount, overlap
from dynvol.mount import providers
from dynvol.mount.errors import UnsafePath
from dynvol.mount.paths import components
from dynvol.mount.providers.contract import Finding

_LONGEST_MESSAGE = 512
"""Characters. All reports share one annotation, which holds 256 KiB at most."""
_CHANGING = Finding("Changing", "the earlier mount of this claim is being flushed and unmounted")


class State(Enum):
    """Of a session."""

    STARTING = "starting"
    SERVING = "serving"
    BROKEN = "broken"
    """The client is not running; it is tried again."""
    ENDING = "ending"
    """Flushing, or waiting for files to be closed."""


class SessionView(msgspec.Struct, frozen=True):
    spec_hash: str
    state: State
    device: tuple[int, int] | None = None
    """Of the private mount, while it serves. A mount that shows with another is of a client that died."""
    finding: Finding | None = None
    restarts: int = 0
    paths: Mapping[str, str] = {}
    """Where it shows, or showed and has yet to end for that: path → the uid of the claim whose it is."""
    owners: frozenset[str] = frozenset()
    """The keys (`WantedMount.key`) of all whose data it may have, those included whom it shows nothing any more."""
    flushed: bool = False
    """It is ending, and all that was written and closed is in the storage."""
    in_pods: bool = True
    """Its paths begin with a pod's uid."""

    def pod(self, path: str) -> str:
        return path.partition("/")[0] if self.in_pods else ""


class Shown(msgspec.Struct, frozen=True):
    """One of our mounts in the table."""

    source: str
    device: tuple[int, int]


class Start(msgspec.Struct, frozen=True):
    mount: WantedMount


class Show(msgspec.Struct, frozen=True):
    """Bind the session's private mount to the path; first take away, lazily, the dead ones that are there."""

    path: str
    source: str
    read_only: bool


class Hide(msgspec.Struct, frozen=True):
    """Take away all of our mounts at the path. Gently: plainly first, lazily only if files stay open."""

    path: str
    source: str
    gently: bool


class Stop(msgspec.Struct, frozen=True):
    source: str


class Salvage(msgspec.Struct, frozen=True):
    """Upload what an earlier mounter left of a mount that is no longer wanted."""

    mount: WantedMount


Action = Start | Show | Hide | Stop | Salvage


def decide(
    wanted: Collection[WantedMount],
    *,
    shown: Mapping[str, Sequence[Shown]],
    sessions: Mapping[str, SessionView],
    busy: Collection[str] = (),
    left: Collection[WantedMount] = (),
) -> list[Action]:
    """The steps that can be taken now. `wanted` has no refused ones; paths in `busy` are being worked on; of those in
    `left` an earlier mounter left a cache."""
    by_path = {mount.path: mount for mount in wanted}
    corrections = (_correct(path, stack, by_path.get(path), sessions) for path, stack in shown.items() if path not in busy)
    return [
        *(action for action in corrections if action is not None),
        *_salvages(wanted, left, sessions),
        *_starts(wanted, left, sessions),
        *_shows(wanted, left, shown, sessions, busy),
        *_stops(wanted, shown, sessions, busy),
    ]


def _salvages(wanted: Collection[WantedMount], left: Collection[WantedMount], sessions: Mapping[str, SessionView]) -> list[Salvage]:
    """What is wanted again takes up its cache itself."""
    sources = {mount.source for mount in wanted}
    return [Salvage(mount) for mount in left if mount.source not in sources and mount.source not in sessions]


def _starts(wanted: Collection[WantedMount], left: Collection[WantedMount], sessions: Mapping[str, SessionView]) -> list[Start]:
    """One for each source that has no session, as soon as one of its claims has no old data to bring home."""
    held = _held_back(wanted, left, sessions)
    free = [mount for mount in wanted if mount.source not in sessions and mount.claim_uid not in held]
    return [Start(mount) for mount in {mount.source: mount for mount in reversed(free)}.values()]


def _held_back(wanted: Collection[WantedMount], left: Collection[WantedMount], sessions: Mapping[str, SessionView]) -> set[str]:
    """The claims of which a mount that is no longer wanted has data that is not in the storage yet: a new one would not show it."""
    sources = {mount.source for mount in wanted}
    return {owner.partition("/")[0] for owner in _waited_for(sources, left, sessions)}


def _waited_for(wanted: Collection[str], left: Collection[WantedMount], sessions: Mapping[str, SessionView]) -> set[str]:
    """The same, pair by pair of claim and pod."""
    ending = {owner for view in _ending(wanted, sessions) for owner in view.owners}
    return ending | {owner for mount in left if mount.source not in wanted for owner in mount.owners}


def _ending(wanted: Collection[str], sessions: Mapping[str, SessionView]) -> list[SessionView]:
    """The sessions that are no longer `wanted`, and have data that may not be in the storage yet."""
    return [view for source, view in sessions.items() if source not in wanted and not view.flushed]


def _shows(
    wanted: Collection[WantedMount],
    left: Collection[WantedMount],
    shown: Mapping[str, Sequence[Shown]],
    sessions: Mapping[str, SessionView],
    busy: Collection[str],
) -> list[Show]:
    """A client may serve other claims already, while one has yet to bring home what it wrote elsewhere."""
    serving = {source for source, session in sessions.items() if session.state is State.SERVING}
    sources = {mount.source for mount in wanted}
    held = _waited_for(sources, left, sessions)
    bare = [m for m in wanted if m.source in serving and m.path not in shown and m.path not in busy and m.key not in held]
    return [Show(mount.path, mount.source, mount.read_only) for mount in bare]


def _stops(
    wanted: Collection[WantedMount],
    shown: Mapping[str, Sequence[Shown]],
    sessions: Mapping[str, SessionView],
    busy: Collection[str],
) -> list[Stop]:
    """Sessions that no one wants, once nothing of theirs shows or is about to."""
    needed = {mount.source for mount in wanted} | {entry.source for stack in shown.values() for entry in stack}
    idle = [s for s, view in sessions.items() if s not in needed and not view.paths.keys() & set(busy)]
    return [Stop(source) for source in idle if sessions[source].state is not State.ENDING]


def _correct(path: str, stack: Sequence[Shown], mount: WantedMount | None, sessions: Mapping[str, SessionView]) -> Action | None:
    """What to do about what shows at a path; None if it is right, or best left alone for now."""
    top = stack[-1]
    session = sessions.get(top.source)
    alive = session is not None and session.state is State.SERVING and session.device == top.device
    if mount is None or mount.source != top.source:
        return Hide(path, top.source, gently=alive)
    if alive and len(stack) == 1:
        return None
    if session is not None and session.state is State.SERVING:
        return Show(path, mount.source, mount.read_only)
    # The client died. What shows answers every call with ENOTCONN, which programs take for the failure that it is; an empty
    # directory they would take for an empty bucket. So it stays until its successor serves.
    return None


def refusals(wanted: Sequence[WantedMount], *, for_pods: bool = True) -> dict[str, MountReport]:
    """Reports, by `WantedMount.key`, of those that cannot be tried, and why.

    The node process tells of one mount only where claims overlap. Should it ever tell of two, the first in the list is tried.
    """
    found: dict[str, MountReport] = {}
    taken: dict[str, WantedMount] = {}
    for mount in wanted:
        if finding := _unfit(mount, for_pods=for_pods):
            found[mount.key] = report(mount, Phase.FAILED, finding)
        elif other := _overlapping(mount.path, taken):
            message = (
                f'"/{_mountpoint(other)}" is taken by claim {other.claim}; choose a mountpoint outside it, or delete that claim'
            )
            found[mount.key] = report(mount, Phase.CONFLICT, Finding("MountpointTaken", message))
        else:
            taken[mount.path] = mount
    return found


def _unfit(mount: WantedMount, *, for_pods: bool) -> Finding | None:
    try:
        parts = components(mount.path)
    except UnsafePath as problem:
        return Finding("InvalidMountpoint", str(problem))
    if for_pods and (len(parts) < 2 or parts[0] != mount.pod_uid):
        return Finding("InvalidMountpoint", f"{mount.path[:128]!r} is not below the pod's own directory")
    if "/" in mount.source or "/" in mount.credentials or mount.credentials in (".", ".."):
        return Finding("InvalidParameters", "the claim's uid, its hash or the name of its credentials holds a slash")
    if problems := providers.validate(mount.provider, mount.parameters):
        return Finding("InvalidParameters", "; ".join(problems))
    return None


def _overlapping(path: str, taken: Mapping[str, WantedMount]) -> WantedMount | None:
    return next((mount for other, mount in taken.items() if overlap(path, other)), None)


def reports(
    wanted: Sequence[WantedMount],
    *,
    refused: Mapping[str, MountReport],
    shown: Mapping[str, Sequence[Shown]],
    sessions: Mapping[str, SessionView],
    failures: Mapping[str, Finding],
) -> list[MountReport]:
    """One entry for each wanted mount, and one for each that is on its way out. `failures` are of showing, by path.

    `time` is left to the engine, which knows what was reported before.
    """
    sources = {mount.source for mount in wanted if mount.key not in refused}
    found = [refused.get(m.key) or _of_wanted(m, sources, shown=shown, sessions=sessions, failures=failures) for m in wanted]
    keys = {entry.key for entry in found}
    for source, session in sessions.items():
        staying = {m.path for m in wanted if m.source == source} if source in sources else set()
        for path in sorted(session.paths.keys() - staying):
            entry = _leaving(path, session, still_shows=path in shown, whole=source not in sources)
            if entry is not None and entry.key not in keys:
                found.append(entry)
                keys.add(entry.key)
    return found


def _leaving(path: str, session: SessionView, *, still_shows: bool, whole: bool) -> MountReport | None:
    """A path that is no longer wanted: done when it does not show and, if the session ends with it, when that has."""
    if not still_shows and not whole:
        return None
    finding = session.finding if session.state is State.ENDING else None
    return MountReport(
        claim_uid=session.paths[path],
        pod_uid=session.pod(path),
        path=path,
        spec_hash=session.spec_hash,
        phase=Phase.UNMOUNTING,
        reason=finding.reason if finding else "",
        message=finding.message if finding else "",
        restarts=session.restarts,
    )


def _of_wanted(
    mount: WantedMount,
    sources: Collection[str],
    *,
    shown: Mapping[str, Sequence[Shown]],
    sessions: Mapping[str, SessionView],
    failures: Mapping[str, Finding],
) -> MountReport:
    session = sessions.get(mount.source)
    if session is None:
        failure = failures.get(mount.path)
        return report(mount, Phase.FAILED, failure) if failure else _waiting(mount, sessions)
    match session.state:
        case State.SERVING if (top := shown.get(mount.path, ())) and (top[-1].source, top[-1].device) == (
            mount.source,
            session.device,
        ):
            broken = session.finding is not None and not session.finding.harmless
            return report(mount, Phase.FAILED if broken else Phase.MOUNTED, session.finding, restarts=session.restarts)
        case State.SERVING if failure := failures.get(mount.path):
            return report(mount, Phase.FAILED, failure, restarts=session.restarts)
        case State.SERVING if earlier := [view for view in _ending(sources, sessions) if mount.key in view.owners]:
            return report(mount, Phase.MOUNTING, earlier[0].finding or _CHANGING)
        case State.BROKEN:
            return report(mount, Phase.FAILED, session.finding, restarts=session.restarts)
    return report(mount, Phase.MOUNTING, session.finding, restarts=session.restarts)


def _waiting(mount: WantedMount, sessions: Mapping[str, SessionView]) -> MountReport:
    for source, session in sessions.items():
        if source != mount.source and not session.flushed and mount.claim_uid in {o.partition("/")[0] for o in session.owners}:
            finding = session.finding if session.state is State.ENDING else None
            return report(mount, Phase.MOUNTING, finding or _CHANGING)
    return report(mount, Phase.PENDING)


def report(mount: WantedMount, phase: Phase, finding: Finding | None = None, *, restarts: int = 0) -> MountReport:
    return MountReport(
        claim_uid=mount.claim_uid,
        pod_uid=mount.pod_uid,
        path=mount.path,
        spec_hash=mount.spec_hash,
        phase=phase,
        reason=finding.reason if finding else "",
        message=finding.message[:_LONGEST_MESSAGE] if finding else "",
        restarts=restarts,
    )


def _mountpoint(mount: WantedMount) -> str:
    return mount.path.removeprefix(f"{mount.pod_uid}/")
