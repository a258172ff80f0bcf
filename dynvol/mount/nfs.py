"""NFS by the kernel's own client, with a program beside it that stands for the mount as a FUSE daemon stands for its.

What touches such a mount may wait for its server in a state that no signal ends. An unmount may, too: whoever drops the last
reference writes back what the kernel still has in memory. So both are left to processes of their own, which can be killed, or if
not even that, abandoned. This module is the program that they run, and what the others need to start it:

    serve    mounts, stays until the mount is gone or it gets SIGTERM, and unmounts. It holds the file system all that time, so no
             one else's unmount is the last one
    reach    looks whether the server answers
    sync     waits until the server has what was written
    release  unmounts what a `serve` that was killed left

It speaks NFS 4 only. That takes one TCP connection and nothing else: no rpcbind, no lock or status daemon, no mount.nfs. Since
mount(2) is given the address apart, the server's name in the mount table is free, and carries ours (`Mount.name`). `nosharecache`
gives each mount a device of its own, as FUSE mounts have, and keeps what is forced upon one from all others.

Not here: which options there are, and what an error means to a user (`providers.nfs`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

from dynvol.mount import mountinfo, syscalls
from dynvol.mount.errors import MountBusy, MountError, NotMounted
from dynvol.mount.syscalls import MountFlag

FSTYPE: Final = "nfs4"
PORT: Final = 2049
OURS: Final = "dynvol-"
"""What the names of our mounts begin with: `api.mounts.SOURCE_PREFIX`, which would cost the program megabytes."""

_FLAGS: Final = MountFlag.NOSUID | MountFlag.NODEV
_CONNECT: Final = 10.0
"""Seconds until a server that says nothing counts as away."""
_NULL_CALL: Final = struct.pack(">11L", 1 << 31 | 40, 1, 0, 2, 100003, 4, 0, 0, 0, 0, 0)
"""RFC 5531: in one fragment of 40 bytes, call 1, of version 2 of RPC, for procedure 0 of NFS 4, by nobody."""
_NULL_REPLY: Final = struct.pack(">7L", 1 << 31 | 24, 1, 1, 0, 0, 0, 0)
"""The reply to call 1: accepted, with success."""
_SHUTDOWN: Final = "/sys/fs/nfs/{}:{}/shutdown"
"""By device. Fails all requests of a mount, also those to come (Linux 6.5)."""
_ROUNDS: Final = 10
_PAUSE: Final = 0.1
"""On older kernels: how often those that wait are made to fail, and the seconds in between. Programs send further ones: whoever
hears that a write failed still closes the file. Should that wait, nothing ends the program any more."""
_ENVIRONMENT: Final = {"LC_ALL": "C"}


# --- what others need


def command(*words: str) -> tuple[str, ...]:
    """The argument vector of this program. It is run without the environment and the directory of whoever starts it."""
    return (sys.executable, "-I", "-m", "dynvol.mount.nfs", *words)


def source(name: str, path: str) -> str:
    """What the mount table shows of a mount of ours: the kernel writes one slash where several are."""
    return f"{name}:/{'/'.join(filter(None, path.split('/')))}"


def served(place: str, *, source: str, server: str, port: int, read_only: bool, options: Sequence[str]) -> tuple[str, ...]:
    """The command that serves a directory of a server at `place`: that in `source`, and nothing that a link there leads to. Each of
    the `options` is tried in turn, until one is of a version that server and kernel speak."""
    mode = "ro" if read_only else "rw"
    return command("serve", FSTYPE, source, place, mode, server, str(port), *options)


def take_away(path: str, *, patience: float = 5.0) -> bool:
    """Unmount what has no `serve` any more. In a thread; takes at most twice `patience` seconds. False if it is there all the same.

    1. What is in memory goes to the server. 2. If that does not answer, all that waits for it fails: what it was not sent is lost,
    which programs that still have the file open are told. 3. The mount goes lazily.
    """
    answered = _run(command("sync", path), within=patience)
    _run(command("release", path, "gently" if answered else "by force"), within=patience)
    return mountinfo.read().at(path) is None


def _run(argv: Sequence[str], *, within: float) -> bool:
    """Whether it ended with 0 in time. Else it is killed, or if it hangs in the kernel, left."""
    null = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    pid = os.posix_spawn(argv[0], [*argv], _ENVIRONMENT, file_actions=null, setsigmask=())
    process = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(process, select.POLLIN)
        if not waiting.poll(within * 1000):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            waiting.poll(200)
        ended = os.waitid(os.P_PIDFD, process, os.WEXITED | os.WNOHANG)
        return ended is not None and ended.si_code == os.CLD_EXITED and ended.si_status == 0
    except ChildProcessError:
        # Process 1 of a container collects every child, so who reaped it may have been another: the mount table tells.
        return True
    finally:
        os.close(process)


# --- the program


def _serve(fstype: str, source: str, place: str, read_only: bool, server: str, port: int, options: Sequence[str]) -> None:
    """1. Mount. 2. Refuse what is not what was named. 3. Refer to the file system. 4. Until SIGTERM, or until the mount is gone.
    5. Unmount.

    Before 3, SIGTERM does what it does to any program, also where that waits for the server.
    """
    flags = _FLAGS | (MountFlag.RDONLY if read_only else MountFlag.NONE)
    _mount(place, fstype=fstype, source=source, flags=flags, candidates=_candidates(server, port, options))
    _refuse_detours(place, source)
    told = _told_by_sigterm()
    held = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    _wait(place, told)
    # Whoever lets go last waits for the server, if only to end a session of NFS 4.1. In a call that can be killed, at the end of a
    # process no more.
    os.close(held)
    with contextlib.suppress(NotMounted):
        syscalls.unmount(place, lazily=True)


def _candidates(server: str, port: int, options: Sequence[str]) -> Iterator[str]:
    for given in options:
        for family, address in _addresses(server, port):
            protocol = "tcp6" if family == socket.AF_INET6 else "tcp"
            yield f"{given},proto={protocol},port={port},addr={address},nosharecache"


def _mount(place: str, *, fstype: str, source: str, flags: MountFlag, candidates: Iterator[str]) -> None:
    """Raises MountError: the last that is not about a version, as that is the one which says what is wrong."""
    problem: MountError | None = None
    for data in candidates:
        try:
            syscalls.mount(place, source=source, fstype=fstype, flags=flags, data=data)
            return
        except MountError as error:
            if error.errno not in (errno.EPROTONOSUPPORT, errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH):
                raise
            problem = problem if problem is not None and error.errno == errno.EPROTONOSUPPORT else error
    assert problem is not None
    raise problem


def _refuse_detours(place: str, source: str) -> None:
    """The kernel follows the server's symbolic links on the way to a directory. Whoever may write on the way could lead it out of
    what a class allows, so a mount must be of what was named. Raises OSError."""
    mount = mountinfo.read().at(place)
    if mount is not None and mount.source != source:
        with contextlib.suppress(NotMounted):
            syscalls.unmount(place, lazily=True)
        raise OSError(errno.ELOOP, f"it leads to {mount.source.partition(':')[2]}")


def _addresses(server: str, port: int) -> list[tuple[int, str]]:
    """Raises socket.gaierror."""
    found = socket.getaddrinfo(server, port, type=socket.SOCK_STREAM)
    return [(family, str(address[0])) for family, _, _, _, address in found]


def _told_by_sigterm() -> int:
    """A descriptor that can be read from then on."""
    told, telling = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(telling)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    return told


def _wait(place: str, told: int) -> None:
    with open(mountinfo.SELF, "rb") as table:
        waiting = select.poll()
        waiting.register(told, select.POLLIN)
        waiting.register(table, select.POLLPRI)
        while mountinfo.read().at(place) is not None:
            if any(descriptor == told for descriptor, _ in waiting.poll()):
                return


def _reach(server: str, port: int) -> None:
    """Whether it answers as a server of NFS 4, to the request that asks for nothing. One that hangs takes connections, too.

    Raises OSError.
    """
    with socket.create_connection((server, port), timeout=_CONNECT) as connection:
        connection.sendall(_NULL_CALL)
        if connection.recv(len(_NULL_REPLY), socket.MSG_WAITALL) != _NULL_REPLY:
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))


def _sync(path: str) -> None:
    """Whoever may not open the directory, as the server takes root for a nobody, has seen to it that `close` did it."""
    with contextlib.suppress(PermissionError):
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.sync_filesystem(directory)
        finally:
            os.close(directory)


def _release(path: str, *, forcibly: bool) -> None:
    with contextlib.suppress(NotMounted, FileNotFoundError):
        if forcibly:
            _fail_requests(path)
        syscalls.unmount(path, lazily=True, forcibly=forcibly)


def _fail_requests(path: str) -> None:
    """Those that wait for the server, and those that programs send next."""
    # What is opened for its path alone asks no server. It keeps the first of the calls below from being the last.
    held = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(0 if _shut_down(path) else _ROUNDS):
            with contextlib.suppress(MountBusy):
                syscalls.unmount(path, forcibly=True)
            time.sleep(_PAUSE)
    finally:
        os.close(held)


def _shut_down(path: str) -> bool:
    """Whether the kernel can, and does, fail all requests of a mount from now on."""
    mount = mountinfo.read().at(path)
    if mount is None:
        return False
    try:
        with open(_SHUTDOWN.format(*mount.device), "w") as switch:
            switch.write("1")
    except OSError:
        return False
    return True


def main(argv: Sequence[str]) -> int:
    """What goes wrong is said in one line, which begins with the error's name."""
    try:
        match argv:
            case ["serve", fstype, source, place, mode, server, port, *options]:
                _serve(fstype, source, place, mode == "ro", server, int(port), options)
            case ["reach", server, port]:
                _reach(server, int(port))
            case ["sync", path]:
                _sync(path)
            case ["release", path, how]:
                _release(path, forcibly=how == "by force")
            case _:
                raise OSError(errno.EINVAL, "it is not for people to run")
    except OSError as error:
        name = "EAI" if isinstance(error, socket.gaierror) else errno.errorcode.get(error.errno or errno.ETIMEDOUT, "EIO")
        sys.stderr.write(f"{name}: {error.strerror or error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
