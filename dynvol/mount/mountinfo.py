"""The kernel's mount table, parsed and indexed.

Every decision about a mount starts here, because reading the table is the one way to look at a mount that cannot block: it
asks no file system anything. The format is the kernel's (proc_pid_mountinfo(5)). The parser never raises: a line that it
does not understand is counted and skipped, so that one odd file system cannot hide all others.

Not here: waiting for changes (`watch`), and changing anything (`syscalls`).
"""

from __future__ import annotations

import os
import re
import select
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

SELF: Final = "/proc/self/mountinfo"

# File systems whose calls wait for something that may be gone: a daemon, a server, an automounter.
_REMOTE: Final = frozenset(
    {"9p", "afs", "autofs", "ceph", "cifs", "coda", "gfs2", "lustre", "nfs", "nfs4", "ocfs2", "smb3", "virtiofs"}
)
NFS: Final = frozenset({"nfs", "nfs4"})
_ESCAPE: Final = re.compile(rb"\\([0-3][0-7]{2})")
_DELETED: Final = "//deleted"
_READ_ATTEMPTS: Final = 8


_last: MountTable | None = None
"""The newest that was parsed. Another thread's, or another namespace's: a line says the same whoever reads it when."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the table.

    `root` is the directory of the file system that shows at `path`: it tells a bind mount of one directory from that of
    another. Text is decoded as file names are (`os.fsdecode`), so any byte survives the way back to the kernel.
    """

    id: int
    parent: int
    major: int
    minor: int
    root: str
    path: str
    options: str
    peer_group: int | None
    master: int | None
    propagate_from: int | None
    unbindable: bool
    fstype: str
    source: str
    super_options: str

    @property
    def device(self) -> tuple[int, int]:
        """Names the file system itself: all binds of it have the same."""
        return (self.major, self.minor)

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.fstype} {self.source} (root {self.root})"

    @property
    def name(self) -> str:
        """The source, as far as whoever mounted it was free to choose: that of NFS ends in the server's directory."""
        return self.source.partition(":")[0] if self.is_nfs else self.source

    @property
    def is_nfs(self) -> bool:
        return self.fstype in NFS

    @property
    def read_only(self) -> bool:
        """Of this mount, not of the file system; the kernel prints it first."""
        return self.options == "ro" or self.options.startswith("ro,")

    @property
    def is_fuse(self) -> bool:
        return self.fstype in {"fuse", "fuseblk"} or self.fstype.startswith(("fuse.", "fuseblk."))

    @property
    def may_block(self) -> bool:
        """Whether a look-up inside may wait for a daemon or a server."""
        return self.is_fuse or self.fstype in _REMOTE

    @property
    def root_is_deleted(self) -> bool:
        """Whether the directory that was bound is gone. No normal path holds `//`, so the mark is unambiguous."""
        return self.root.endswith(_DELETED)


class MountTable:
    """An immutable snapshot of the table of one mount namespace, with indexes.

    Paths are compared as text: they must be absolute, normal and free of symbolic links (`paths.canonical`).
    """

    __slots__ = ("_by_id", "_by_line", "_children", "_roots", "malformed", "mounts")

    def __init__(self, mounts: Iterable[Mount], *, malformed: int = 0) -> None:
        # A table that was read while it changed may show an id twice; one parent for each id keeps every walk finite.
        by_id: dict[int, Mount] = {}
        for mount in mounts:
            by_id.setdefault(mount.id, mount)
        self.mounts: Final = tuple(by_id.values())
        self.malformed: Final = malformed
        self._by_id: Final = by_id
        self._by_line: Mapping[str, Mount] = {}
        self._children: Final = {(m.parent, m.path): m for m in self.mounts if m.parent != m.id}
        self._roots: Final = tuple(m for m in self.mounts if m.parent == m.id or m.parent not in by_id)

    @classmethod
    def parse(cls, data: bytes, *, previous: MountTable | None = None) -> MountTable:
        """Parse a whole table. Lines that `previous` holds too are taken from there, which most are."""
        known = previous._by_line if previous is not None else {}
        by_line: dict[str, Mount] = {}
        malformed = 0
        for line in os.fsdecode(data).split("\n"):
            if not line:
                continue
            mount = known.get(line) or parse_line(line)
            if mount is None:
                malformed += 1
            else:
                by_line[line] = mount
        table = cls(by_line.values(), malformed=malformed)
        table._by_line = by_line
        return table

    def __len__(self) -> int:
        return len(self.mounts)

    def __iter__(self) -> Iterator[Mount]:
        return iter(self.mounts)

    def get(self, mount_id: int) -> Mount | None:
        return self._by_id.get(mount_id)

    def containing(self, path: str) -> Mount | None:
        """The mount that serves `path`: the one that a look-up, free of symbolic links, ends in."""
        current = self._start(path)
        if current is None:
            return None
        for prefix in _prefixes(path):
            while (child := self._children.get((current.id, prefix))) is not None:
                current = child
        return current

    def at(self, path: str) -> Mount | None:
        """The topmost mount exactly at `path`, None if it is no mount point (or is hidden by a mount above it)."""
        mount = self.containing(path)
        return mount if mount is not None and mount.path == path else None

    def stack(self, path: str) -> tuple[Mount, ...]:
        """The mounts on top of one another at `path`, the visible one last."""
        stack: list[Mount] = []
        mount = self.at(path)
        while mount is not None and mount.path == path:
            stack.append(mount)
            mount = self._parent_of(mount)
        return tuple(reversed(stack))

    def below(self, path: str) -> tuple[Mount, ...]:
        """All that is mounted strictly below `path`, in an order in which it can be unmounted.

        Mounts that are hidden under another are there too: they come after what hides them, where that is below `path`.
        """
        prefix = path if path.endswith("/") else path + "/"
        found = [(self._depth(m), i, m) for i, m in enumerate(self.mounts) if m.path.startswith(prefix) and m.path != path]
        return tuple(m for _, _, m in sorted(found, key=lambda entry: entry[:2], reverse=True))

    def peers(self, group: int) -> tuple[Mount, ...]:
        """The mounts of a peer group that this namespace sees."""
        return tuple(m for m in self.mounts if m.peer_group == group)

    def slaves(self, group: int) -> tuple[Mount, ...]:
        """The mounts that receive from a peer group."""
        return tuple(m for m in self.mounts if m.master == group)

    def on_device(self, device: tuple[int, int]) -> tuple[Mount, ...]:
        return tuple(m for m in self.mounts if m.device == device)

    def identity(self, path: str) -> tuple[tuple[int, int], str] | None:
        """Device and root that a bind mount of `path` would show, None if no mount serves the path."""
        mount = self.containing(path)
        return None if mount is None else (mount.device, _join(mount.root, path, below=mount.path))

    def covered_identity(self, mount: Mount) -> tuple[tuple[int, int], str] | None:
        """Device and root of what `mount` sits on: equal to the mount's own where a directory is bound onto itself."""
        parent = self._parent_of(mount)
        return None if parent is None else (parent.device, _join(parent.root, mount.path, below=parent.path))

    def parent_of(self, mount: Mount) -> Mount | None:
        return self._parent_of(mount)

    def _parent_of(self, mount: Mount) -> Mount | None:
        return None if mount.parent == mount.id else self._by_id.get(mount.parent)

    def _depth(self, mount: Mount) -> int:
        depth = 0
        parent = self._parent_of(mount)
        while parent is not None and depth < len(self.mounts):
            depth, parent = depth + 1, self._parent_of(parent)
        return depth

    def _start(self, path: str) -> Mount | None:
        """Where a look-up starts: the namespace's root, or for a chroot, which may show none, the nearest mount above."""
        above = [m for m in self._roots if m.path == "/" or path == m.path or path.startswith(m.path + "/")]
        return max(above, key=lambda m: len(m.path), default=None)


def parse_line(line: str) -> Mount | None:
    """One line, decoded as file names are, as a Mount; None if it is malformed.

    Fields are split at single spaces, not at white space: a source may be empty. The super options come last and keep any
    space that a file system forgot to escape.
    """
    front, _, back = line.partition(" - ")
    fields, rest = front.split(" "), back.split(" ", 2)
    if len(fields) < 6 or len(rest) != 3:
        return None
    try:
        major, _, minor = fields[2].partition(":")
        shared, master, propagate_from, unbindable = _optional(fields[6:])
        return Mount(
            int(fields[0]),
            int(fields[1]),
            int(major),
            int(minor),
            _unescaped(fields[3]),
            _unescaped(fields[4]),
            fields[5],
            shared,
            master,
            propagate_from,
            unbindable,
            rest[0],
            _unescaped(rest[1]),
            _unescaped(rest[2]),
        )
    except ValueError:
        return None


def read(path: str = SELF) -> MountTable:
    """A snapshot of the table, as it was at one moment. Lines that the last snapshot had are not parsed again.

    The kernel hands the table out a page at a time, and what changes in between makes lines appear twice or not at all.
    poll(2) on the open file tells whether anything changed since it was opened: if so, read again. On a node where mounts
    never rest the last attempt is taken as it is.
    """
    global _last
    for _ in range(_READ_ATTEMPTS):
        # Reading procfs never waits; O_NONBLOCK tells so to those who watch over the event loop.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            data = _read_all(fd)
            if not _changed_since_open(fd):
                break
        finally:
            os.close(fd)
    _last = MountTable.parse(data, previous=_last)
    return _last


class SharedReading:
    """One reading for all threads that want one at the same time: none gets a table older than its question.

    A hundred pods that start at once ask hundreds of times, each while the others change the table: alone, most would read it
    several times over. Who is served by the reading that has just ended does not wait for the next, as it would for a lock.
    """

    def __init__(self, path: str = SELF) -> None:
        self._path: Final = path
        self._changed: Final = threading.Condition()
        self._begun = self._done = 0
        self._under_way = False
        self._table = MountTable(())
        """What the reading with the number `_done` gave."""

    def __call__(self) -> MountTable:
        """As `read` gives it. Waits for a reading that is under way, and takes its own only if no other began meanwhile."""
        with self._changed:
            too_old = self._begun
            while self._under_way and self._done <= too_old:
                self._changed.wait()
            if self._done > too_old:
                return self._table
            self._begun += 1
            number, self._under_way = self._begun, True
        try:
            table = read(self._path)
        except BaseException:
            self._end()
            raise
        self._end(table, number=number)
        return table

    def _end(self, table: MountTable | None = None, *, number: int = 0) -> None:
        """Without a table: it failed, and another of those who wait is to try."""
        with self._changed:
            self._under_way = False
            if table is not None:
                self._table, self._done = table, number
            self._changed.notify_all()


shared: Final = SharedReading()
"""For the threads of this process."""


def _read_all(fd: int) -> bytes:
    chunks = []
    while chunk := os.read(fd, 1 << 16):
        chunks.append(chunk)
    return b"".join(chunks)


def _changed_since_open(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLPRI)
    return bool(poll.poll(0))


def _optional(fields: list[str]) -> tuple[int | None, int | None, int | None, bool]:
    """Peer group, master, propagate-from and unbindable; fields that are not known are ignored, as the format demands."""
    shared = master = propagate_from = None
    unbindable = False
    for field in fields:
        tag, _, value = field.partition(":")
        match tag:
            case "shared":
                shared = int(value)
            case "master":
                master = int(value)
            case "propagate_from":
                propagate_from = int(value)
            case "unbindable":
                unbindable = True
    return shared, master, propagate_from, unbindable


def _unescaped(field: str) -> str:
    if "\\" not in field:
        return field
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes((int(match[1], 8),)), os.fsencode(field)))


def _prefixes(path: str) -> Iterator[str]:
    """`/`, `/a`, `/a/b` for `/a/b`."""
    yield "/"
    end = path.find("/", 1)
    while end != -1:
        yield path[:end]
        end = path.find("/", end + 1)
    if path != "/":
        yield path


def _join(root: str, path: str, *, below: str) -> str:
    relative = path[len(below) :].strip("/")
    if not relative:
        return root
    return f"{root.rstrip('/')}/{relative}"
