"""The mounter's own directories: where clients mount in private, where their secrets are, and what an earlier life left.

`run` must be memory: a tmpfs is mounted there and taken away at the end, unless something is mounted there already. It is made
unbindable, which is two things: private, so that what is mounted below shows in no other namespace; and never to be bound, so
that a client that dies while its mount is being shown cannot leave the bare directory in its place.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from dynvol.api import names
from dynvol.api.mounts import OWN_SECRETS, SOURCE_PREFIX, own_secret_prefix
from dynvol.mount import fuse, mountinfo, paths, propagation, syscalls
from dynvol.mount.mountinfo import Mount, MountTable
from dynvol.mount.providers.contract import Credentials, Place
from dynvol.mount.syscalls import MountFlag
from dynvol.observe import logs

_log: Final = logs.get(__name__)

SENT: Final = "sent-"
"""What the name of a set of credentials begins with that came with a call: it is kept in `run`, which is memory."""


class Stage(msgspec.Struct, frozen=True):
    """Absolute, normal paths."""

    root: str
    """Shared with the node and, below each pod's directory, with its containers."""
    run: str
    cache: str
    credentials: str
    """Where the Secret's copy is mounted. A set that a mount names is a directory in it; but in a mount pod, as a Secret holds no
    directories, the files that have the set's prefix."""
    for_pods: bool = True
    """The first part of each path below the root is a workload pod's own directory, which the node process makes and removes."""

    def anchor(self, path: str) -> tuple[str, str]:
        """The directory that is not ours, and the rest of a mount's relative path: directories that are made and removed here."""
        if not self.for_pods:
            return self.root, path
        pod, _, below = path.partition("/")
        return self.shown(pod), below

    def shown(self, path: str) -> str:
        """The visible place of a mount's relative path."""
        return f"{self.root}/{path}"

    def place(self, source: str, *, number: int, memory: int | None, newer: Iterable[int] = ()) -> Place:
        """Of one client. A mount's next client has another number while the two overlap, since no cache is for two."""
        return Place(
            source=source,
            mountpoint=f"{self.run}/mnt/{source}~{number}",
            secrets=f"{self.run}/secrets/{source}~{number}",
            cache=f"{self.cache}/{source}/{number}",
            memory=memory,
            newer=tuple(f"{self.cache}/{source}/{other}" for other in newer),
        )

    @property
    def sent_credentials(self) -> str:
        return f"{self.run}/credentials"

    def credentials_directory(self, name: str) -> str:
        if name.startswith(SENT):
            return f"{self.sent_credentials}/{name}"
        return f"{self.credentials}/{name}" if name else self.credentials

    def whose(self, name: str) -> str:
        """What messages call a set of credentials."""
        return f"the claim's Secret {name}" if name and self.for_pods else Credentials().whose

    def has_credentials(self, name: str) -> bool:
        return bool(_keys(*self._set(name)))

    def read_credentials(self, name: str = "") -> Credentials:
        """A set of credentials as it is now; what is missing is empty. No log shows it from now on. Blocks on files in memory."""
        directory, prefix = self._set(name)
        ca_file = f"{directory}/{prefix}{names.CA_CERTIFICATE}"
        values = {key: _read(f"{directory}/{prefix}{key}") for key in _keys(directory, prefix)}
        found = Credentials(
            whose=self.whose(name),
            access_key=values.get(names.ACCESS_KEY, ""),
            secret_key=values.get(names.SECRET_KEY, ""),
            session_token=values.get(names.SESSION_TOKEN, ""),
            ca_file=ca_file if names.CA_CERTIFICATE in values else "",
            values=values,
        )
        logs.hide(found.secret_key)
        logs.hide(found.session_token)
        return found

    def _set(self, name: str) -> tuple[str, str]:
        """The directory of a set, and what the names of its files begin with."""
        if self.for_pods:
            return self.credentials, own_secret_prefix(name) if name else ""
        return self.credentials_directory(name), ""


@contextlib.contextmanager
def opened(stage: Stage) -> Iterator[None]:
    """1. Clear what an earlier life left mounted. 2. Make `run` unbindable memory. 3. Make the directories. Undone at the end."""
    clear_earlier_life(stage)
    os.makedirs(stage.run, mode=0o700, exist_ok=True)
    os.makedirs(stage.cache, mode=0o700, exist_ok=True)
    # Kubelet makes it as it makes all directories of the host: for everyone to look into.
    os.chmod(stage.cache, 0o700)
    own = mountinfo.read().at(stage.run) is None
    if own:
        flags = MountFlag.NOSUID | MountFlag.NODEV
        syscalls.mount(stage.run, source="dynvol-run", fstype="tmpfs", flags=flags, data="mode=0700,size=16m")
    try:
        propagation.make_unbindable(stage.run)
        for directory in ("mnt", "secrets"):
            os.makedirs(f"{stage.run}/{directory}", mode=0o700, exist_ok=True)
        yield
    finally:
        if own:
            syscalls.unmount(stage.run, lazily=True)
        else:
            for directory in ("mnt", "secrets"):
                paths.remove_empty_tree(f"{stage.run}/{directory}")


def clear_earlier_life(stage: Stage) -> None:
    """Take away mounts whose clients ended with an earlier mounter: they die with their parent, so none can be alive. And the
    directories below them: to programs a bare one looks like an empty bucket, also while it is not yet, or never again, mounted."""
    table = mountinfo.read()
    bare = list(ours(table, stage))
    for directory in (stage.root, stage.run):
        dead = {m.path for m in table.below(directory) if is_ours(m)}
        if not dead:
            continue
        fuse.clear_dead(directory, only=dead)
        for path in sorted(dead):
            _log.warning("cleared a mount of an earlier life", path=path)
    table = mountinfo.read()
    if stage.for_pods:
        _remove_bare_directories(stage.root, table)
    else:
        # What else is empty there may be anyone's.
        for path in bare:
            paths.remove_empty_directories_below(stage.root, path, table=table)
    stale_run = table.at(stage.run)
    if stale_run is not None and stale_run.source == "dynvol-run":
        syscalls.unmount(stage.run, lazily=True)


def _remove_bare_directories(root: str, table: MountTable) -> None:
    """All but the pods' own, which are not ours. What is mounted stays, and with it what leads there."""
    for pod in _names(root):
        for name in _names(f"{root}/{pod}"):
            paths.remove_empty_tree(f"{root}/{pod}/{name}", table=table)


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_ours(mount: Mount) -> bool:
    return (mount.is_fuse or mount.is_nfs) and mount.name.startswith(SOURCE_PREFIX)


def ours(table: MountTable, stage: Stage) -> dict[str, tuple[Mount, ...]]:
    """The mounts of ours that show below the root, by relative path; of several on one path the visible one last."""
    prefix = stage.root + "/"
    found = {m.path for m in table if m.path.startswith(prefix) and is_ours(m) and not _is_the_servers(m, table)}
    return {path[len(prefix) :]: table.stack(path) for path in found}


def _is_the_servers(mount: Mount, table: MountTable) -> bool:
    """Where a server's own file systems meet, the kernel mounts the inner one below the outer by itself, under its name."""
    parent = table.parent_of(mount)
    return mount.is_nfs and parent is not None and parent.name == mount.name and parent.path != mount.path


def write_secrets(directory: str, files: Mapping[str, bytes]) -> None:
    """Write files that only root may read. The directory is in memory."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    for name, content in files.items():
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fresh = f"{path}.new"
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
        os.rename(fresh, path)


def remove_secrets(directory: str, files: Mapping[str, bytes]) -> None:
    for name in files:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))
    paths.remove_empty_tree(directory)


def _keys(directory: str, prefix: str) -> list[str]:
    """The keys of a set. Beside them lie other sets, as directories or under other prefixes, and names that begin with two dots, by
    which kubelet swaps all of them at once."""
    others = ("..",) if prefix else ("..", OWN_SECRETS)
    try:
        with os.scandir(directory) as entries:
            found = [entry.name for entry in entries if not entry.name.startswith(others) and entry.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [name.removeprefix(prefix) for name in found if name.startswith(prefix)]


def _read(path: str) -> str:
    """A key of the Secret. A line break at the end is an accident of how it was made, never part of a credential."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(65536).rstrip("\r\n")
    except (FileNotFoundError, NotADirectoryError):
        return ""
