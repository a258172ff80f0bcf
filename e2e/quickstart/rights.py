"""What a machine must allow, found out by trying it before anything is installed. Standard library only.

Nothing that is tried here outlives the call: mounts are made in a namespace of a process that ends.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from e2e.cluster import cgroups, mounts

FUSE = Path("/dev/fuse")
FUSE_NUMBER = os.makedev(10, 229)  # the kernel's Documentation/admin-guide/devices.txt
IN_A_CONTAINER = "in a container, that takes one that is privileged (docker run --privileged)"


def lacking(state: Path) -> str | None:
    """The first thing that is missing, as a sentence with what to do about it; None where all is well.

    `state` is the folder that will hold the nodes' files, which not every file system can.
    """
    return next((problem for check in (_root, _fuse, lambda: _mounts(state), _cgroups) if (problem := check())), None)


def _root() -> str | None:
    if sys.platform != "linux":
        return "this runs on Linux only"
    if os.geteuid() != 0:
        return "root is needed, to make containers and mounts: run it as root (sudo hack/quickstart)"
    return None


def _fuse() -> str | None:
    try:
        found = FUSE.stat()
        if not stat.S_ISCHR(found.st_mode) or found.st_rdev != FUSE_NUMBER:
            return f"{FUSE} is something else than FUSE's device (mknod {FUSE} c 10 229)"
        os.close(os.open(FUSE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"there is no {FUSE}: load the kernel's module (modprobe fuse); in a container, pass the device in (--device {FUSE})"
    except OSError as error:
        return f"{FUSE} cannot be opened ({error.strerror}): is FUSE in this kernel? {IN_A_CONTAINER}"
    return None


def _mounts(state: Path) -> str | None:
    """A node: namespaces of its own, in which mounts propagate, and an overlay whose upper half lies in the state folder."""
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".dynvol-try-", dir=state.parent))
    except OSError as error:
        return f"{state} cannot be made ({error.strerror}): name another folder with --state"
    try:
        return _in_a_child(lambda: _try_mounts(scratch))
    finally:
        shutil.rmtree(scratch)


def _try_mounts(scratch: Path) -> str | None:
    try:
        mounts.unshare(mounts.CLONE_NEWNS | mounts.CLONE_NEWPID | mounts.CLONE_NEWUTS)
        mounts.make_private(Path("/"), recursive=True)
        mounts.make_shared(Path("/"), recursive=True)
    except OSError as error:
        return f"this machine lets no namespaces and mounts be made ({error.strerror}): {IN_A_CONTAINER}"
    upper, work, merged = (scratch / name for name in ("upper", "work", "merged"))
    for folder in (upper, work, merged):
        folder.mkdir()
    try:
        mounts.overlay(merged, lower=Path("/var/lib"), upper=upper, work=work)
    except OSError as error:
        if error.errno == errno.ENODEV:
            return "this kernel has no overlay file system: load its module (modprobe overlay)"
        return f"no overlay can lie in {scratch.parent} ({error.strerror}): name a folder on ext4 or xfs with --state"
    return None


def _in_a_child(check: Callable[[], str | None]) -> str | None:
    """The check's answer, from a process of its own: what it unshares and mounts ends with it."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(send, (check() or "").encode())
        except BaseException as error:
            os.write(send, f"this machine cannot be tried: {error!r}".encode())
        finally:
            os._exit(0)
    os.close(send)
    with open(receive, encoding="utf-8") as answer:
        found = answer.read()
    os.waitpid(child, 0)
    return found or None


def _cgroups() -> str | None:
    tried = f"/dynvol-try-{os.getpid()}"
    try:
        if not cgroups.writable(tried):
            return f"no control groups can be made below {cgroups.ROOT}: {IN_A_CONTAINER}"
    finally:
        cgroups.remove(tried)
    return None
