"""Containers: made with runc over an overlay of the machine's own root, each watched by a shim of its own.

What is known of a container is in its directory, so that a kubelet that was killed finds all of them again:

    meta.json    whose it is: written first
    config.json  for runc
    rootfs, upper, work   the overlay; unmounted and emptied when the container has ended
    shim.json    who waits for it; absent until it runs
    exit.json    how it ended; absent until then

This module restarts nothing and knows no pods beyond their names; that is `worker`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from e2e.cluster import cgroups, children, mounts
from e2e.cluster.kubelet import oci

SHIM = Path(__file__).with_name("shim.py")
PROJECT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Exit:
    code: int
    oom: bool
    started_at: str
    finished_at: str
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Meta:
    """Whose a container is, and which try it is: attempt 0 is the first."""

    id: str
    pod_uid: str
    namespace: str
    pod: str
    name: str
    attempt: int
    image: str
    created: str
    log: str
    cgroup: str
    init: bool


@dataclass(frozen=True, slots=True)
class Container:
    meta: Meta
    directory: Path

    @property
    def exit(self) -> Exit | None:
        """How it ended, or None while it runs."""
        with contextlib.suppress(FileNotFoundError):
            found = json.loads((self.directory / "exit.json").read_text())
            return Exit(
                code=found["code"],
                oom=found.get("oom", False),
                started_at=found.get("startedAt", ""),
                finished_at=found["finishedAt"],
                reason=found.get("reason", ""),
                message=found.get("message", ""),
            )
        return None

    @property
    def started_at(self) -> str:
        return str(self._shim().get("startedAt", self.meta.created))

    @property
    def init_process(self) -> int:
        return int(self._shim().get("container", 0))

    @property
    def shim(self) -> int:
        """The shim's process id if that very process still lives, else 0. Ids are used again: the start time tells."""
        recorded = self._shim()
        if not recorded:
            return 0
        try:
            stat = Path(f"/proc/{recorded['pid']}/stat").read_text()
        except OSError:
            return 0
        return int(recorded["pid"]) if int(stat.rpartition(")")[2].split()[19]) == recorded["start"] else 0

    def _shim(self) -> dict[str, int]:
        with contextlib.suppress(FileNotFoundError):
            loaded: dict[str, int] = json.loads((self.directory / "shim.json").read_text())
            return loaded
        return {}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Runtime:
    """The containers of one node. `root` holds their directories; `cgroup_parent` is empty if there are no cgroups."""

    def __init__(self, root: Path, *, logs: Path, cgroup_parent: str) -> None:
        self._root = root
        self._runc_root = root.parent / "runc"
        self._logs = logs
        self.cgroup_parent = cgroup_parent
        for folder in (self._root, self._runc_root, self._logs):
            folder.mkdir(parents=True, exist_ok=True)

    def containers(self) -> list[Container]:
        """Every container on disk, running or ended, the oldest try first."""
        found = []
        for directory in self._root.iterdir():
            with contextlib.suppress(FileNotFoundError, ValueError):
                found.append(Container(Meta(**json.loads((directory / "meta.json").read_text())), directory))
        return sorted(found, key=lambda container: container.meta.attempt)

    def cgroup_of(self, pod_uid: str, identity: str) -> str:
        return f"{self.cgroup_parent}/pod{pod_uid}/{identity}" if self.cgroup_parent else ""

    async def start(
        self, make_spec: Callable[[str], oci.ContainerSpec], *, pod: dict[str, str], name: str, attempt: int, image: str,
        init: bool,
    ) -> Container:  # fmt: skip
        """Make a container and start it. One that cannot start is returned ended, with code 128 and runc's words.

        1. The directory, and meta.json in it: from here on a restarted kubelet knows of it.
        2. The overlay.
        3. config.json from `make_spec`, which is told the cgroup.
        4. The shim, which answers when the container runs.
        """
        identity = secrets.token_hex(32)
        log_file = self.log_of(pod["namespace"], pod["name"], pod["uid"], name, attempt)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        cgroup = self.cgroup_of(pod["uid"], identity)
        meta = Meta(identity, pod["uid"], pod["namespace"], pod["name"], name, attempt, image, now(), str(log_file), cgroup, init)
        container = Container(meta, self._root / identity)
        self._prepare(container)
        try:
            _write_json(container.directory / "config.json", oci.config(make_spec(cgroup)))
            await children.run(self._shim_command(container))
        except (Exception, asyncio.CancelledError):
            await self.remove(container)
            raise
        self.settle(container)
        return container

    def _shim_command(self, container: Container) -> list[str | Path]:
        cgroup = container.meta.cgroup
        oom_file = cgroups.oom_file(cgroup) if cgroup else "/dev/null"
        interpreter: list[str | Path] = [sys.executable, "-I", "-S", SHIM]
        return [*interpreter, container.directory, container.meta.id, self._runc_root, oom_file, container.meta.log]

    def _prepare(self, container: Container) -> None:
        for folder in ("rootfs", "upper", "work"):
            (container.directory / folder).mkdir(parents=True, mode=0o755)
        if not self.cgroup_parent:
            (container.directory / "no-cgroups").touch()
        _write_json(container.directory / "meta.json", asdict(container.meta))
        mounts.overlay(
            container.directory / "rootfs",
            lower=Path("/"),
            upper=container.directory / "upper",
            work=container.directory / "work",
        )
        _open_the_way(container.directory / "rootfs")

    def log_of(self, namespace: str, pod: str, uid: str, name: str, attempt: int) -> Path:
        return self._logs / f"{namespace}_{pod}_{uid}" / name / f"{attempt}.log"

    def when_ended(self, container: Container, call: Callable[[], None]) -> None:
        """Call `call` once, from the loop, when the container's shim is gone; at once if it already is."""
        loop = asyncio.get_running_loop()
        try:
            descriptor = os.pidfd_open(container.shim) if container.shim else -1
        except ProcessLookupError:
            descriptor = -1
        if descriptor < 0:
            loop.call_soon(call)
            return

        def ended() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            call()

        loop.add_reader(descriptor, ended)

    def settle(self, container: Container) -> None:
        """Give a container whose shim died without a word (killed, or the machine crashed) an end on record."""
        if container.exit is None and not container.shim:
            lost = {"code": 137, "reason": "ContainerStatusUnknown", "finishedAt": now()}
            lost["message"] = "The container could not be located when the kubelet looked for it"
            lost["startedAt"] = container.started_at
            _write_json(container.directory / "exit.json", lost)

    async def signal(self, container: Container, number: signal.Signals) -> None:
        """Send a signal to the container's first process; to all of them where they share the node's process ids."""
        if number == signal.SIGKILL:
            killed = await self.runc("kill", "--all", container.meta.id, str(int(number)))
            if killed.code == 0:
                return
        await self.runc("kill", container.meta.id, str(int(number)))

    async def runc(self, *arguments: str, limit: float = 30.0) -> children.Outcome:
        return await children.run(["runc", "--root", self._runc_root, *arguments], limit=limit)

    def exec_command(self, container: Container, command: Sequence[str], *, terminal: bool = False) -> list[str]:
        """The argument vector that runs `command` inside, with the container's own user, environment, limits."""
        extra = ["--tty"] if terminal else []
        return ["runc", "--root", str(self._runc_root), "exec", *extra, container.meta.id, *command]

    async def execute(self, container: Container, command: Sequence[str], *, limit: float) -> children.Outcome:
        return await children.run(self.exec_command(container, command), limit=limit)

    async def release(self, container: Container) -> None:
        """Take the ended container from runc and the kernel; its directory stays, to say how it ended."""
        await self.runc("delete", "--force", container.meta.id)
        rootfs = container.directory / "rootfs"
        if mounts.is_mounted(rootfs):
            try:
                mounts.unmount(rootfs)
            except OSError:
                mounts.unmount(rootfs, lazy=True)
        if container.meta.cgroup:
            await asyncio.to_thread(cgroups.remove, container.meta.cgroup)
        if not mounts.below(container.directory):
            await asyncio.to_thread(_remove_trees, [container.directory / "upper", container.directory / "work"])

    async def remove(self, container: Container) -> None:
        """Forget an ended container altogether. Its directory stays if anything is still mounted there."""
        await self.release(container)
        if not mounts.below(container.directory):
            await asyncio.to_thread(_remove_trees, [container.directory])

    async def forget_pod(self, uid: str) -> None:
        """Remove a pod's cgroup and logs, once its containers are removed."""
        if self.cgroup_parent:
            await asyncio.to_thread(cgroups.remove, f"{self.cgroup_parent}/pod{uid}")
        await asyncio.to_thread(_remove_trees, list(self._logs.glob(f"*_{uid}")))


def _write_json(path: Path, value: object) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(value))
    fresh.rename(path)


def _remove_trees(trees: Sequence[Path]) -> None:
    for tree in trees:
        shutil.rmtree(tree, ignore_errors=True)


def _open_the_way(rootfs: Path) -> None:
    """Let users other than root reach the interpreter and the checkout, which on this machine may lie in root's home.

    The overlay keeps the change to itself. An image would have its programs where everybody may run them.
    """
    for tree in (PROJECT, Path(sys.prefix), Path(sys.base_prefix)):
        for folder in (tree, *tree.parents):
            inside = rootfs / folder.relative_to("/")
            if inside.is_dir() and not (mode := inside.stat().st_mode) & stat.S_IXOTH:
                inside.chmod(stat.S_IMODE(mode) | stat.S_IXOTH | stat.S_IXGRP)
