"""A real NFS server for tests, and whether this kernel can mount from one: nfs-ganesha, from Debian, over directories of the test.

It runs in the test's own namespaces, so it ends with it at the latest. A mount must not outlive its server: taking it down would
wait for that. So the server goes on, and its mounts go by force, before it ends, whatever became of the test.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from dynvol.mount import mountinfo, syscalls
from dynvol.mount.errors import MountError

from .storage import Server, free_port, wait_for

_PROGRAM: Final = "ganesha.nfsd"
_LEASE: Final = 10
"""Seconds: the least that it takes. After a restart clients have as long to claim their files again."""
_SYSTEM: Final = """
NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {port}; Bind_addr = {listens}; Enable_NLM = false; Enable_RQUOTA = false; }}
NFSV4 {{ Lease_Lifetime = {lease}; Grace_Period = {lease}; RecoveryBackend = fs; RecoveryRoot = "{state}";
        Minor_Versions = {minors}; }}
LOG {{ Default_Log_Level = WARN; }}
"""
_EXPORT: Final = """
EXPORT {{ Export_Id = {number}; Path = "{path}"; Pseudo = "{name}"; Filesystem_Id = {number}.{number}; Access_Type = {access};
         Squash = {squash}; SecType = sys; Protocols = 4; Transports = TCP; FSAL {{ Name = VFS; }} }}
"""


def _has_client() -> bool:
    """Whether the kernel mounts NFS. It loads a module if it has one, so its list of file systems does not tell."""
    try:
        syscalls.mount("/", fstype="nfs4", data="")
    except MountError as error:
        return error.errno not in (errno.ENODEV, errno.EPERM)
    raise AssertionError("it mounted nothing from nowhere")


_client: Final = _has_client()
without_client: Final = pytest.mark.skipif(_client, reason="this kernel has an NFS client")
with_client: Final = pytest.mark.skipif(not _client, reason="this kernel has no NFS client")
with_server: Final = pytest.mark.skipif(not shutil.which(_PROGRAM), reason=f"no {_PROGRAM} (Debian: nfs-ganesha, nfs-ganesha-vfs)")


class NFSServer(Server):
    """It exports directories of `root` by their name. `minors` are the versions 4.x that it speaks."""

    def __init__(self, root: Path, *, minors: tuple[int, ...], listens: str) -> None:
        super().__init__()
        self.root = root
        self.port = free_port()
        self._minors = minors
        self._listens = listens
        self._exports: list[str] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def export(self, name: str, *, access: str = "RW", squash: str = "No_Root_Squash") -> Path:
        """Before it is up."""
        directory = self.root / name
        directory.mkdir(parents=True, exist_ok=True)
        number = len(self._exports) + 1
        self._exports.append(_EXPORT.format(number=number, path=directory, name=f"/{name}", access=access, squash=squash))
        return directory

    def up(self) -> None:
        """From now on it listens. After `down`, those who were connected have some seconds to claim again what they had open, and
        nobody else is let in for as long."""
        state = self.root.parent / "state"
        state.mkdir(exist_ok=True)
        text = _SYSTEM.format(
            port=self.port, listens=self._listens, lease=_LEASE, state=state, minors=",".join(map(str, self._minors))
        )
        configuration = state / "ganesha.conf"
        configuration.write_text(text + "".join(self._exports))
        argv = [_PROGRAM, "-F", "-f", str(configuration), "-L", str(state / "log"), "-p", str(state / "pid")]
        self._process = subprocess.Popen(argv, env={"PATH": "/usr/bin:/usr/sbin"}, stdin=subprocess.DEVNULL)
        wait_for(self.port, self._process, host=self._listens)

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Inside, it accepts connections and answers nothing, but between `resume` and `pause`."""
        self.pause()
        try:
            yield
        finally:
            self.resume()


@contextlib.contextmanager
def nfs_server(playground: str, *, minors: tuple[int, ...] = (0, 1, 2), listens: str = "127.0.0.1") -> Iterator[NFSServer]:
    """One that is to be given exports and put `up`."""
    server = NFSServer(Path(playground, "server", "exports"), minors=minors, listens=listens)
    try:
        yield server
    finally:
        for mount in reversed(mountinfo.read().mounts):
            if mount.is_nfs and mount.path.startswith(playground):
                with contextlib.suppress(MountError):
                    syscalls.unmount(mount.path, lazily=True, forcibly=True)
        server.down()
