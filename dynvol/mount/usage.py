"""How full the file system behind a published target is, for NodeGetVolumeStats.

What is asked is the bare directory that the target is a view of, never what is mounted below it: kubelet asks every pod's
volume once a minute, and must not wait for a bucket. The figures are those of the host's file system.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from dynvol.mount import mountinfo, paths
from dynvol.mount.errors import MountInTheWay, WrongMount


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes and inodes. `available` is what is there for unprivileged users, so `used + available` may be less than `total`."""

    total: int
    used: int
    available: int
    inodes_total: int
    inodes_used: int
    inodes_available: int


def usage_of(target: str) -> Usage:
    """Of the mount at `target`. Raises WrongMount if there is none, MountInTheWay if asking it might block."""
    place = paths.canonical(target)
    mount = mountinfo.read().at(place)
    if mount is None:
        raise WrongMount(place, "nothing is mounted there")
    if mount.may_block:
        raise MountInTheWay(place, f"{mount.label} is mounted here, and might not answer")
    fd = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if paths.mount_id(fd) != mount.id:
            raise MountInTheWay(place, "another mount appeared here just now")
        figures = os.fstatvfs(fd)
    finally:
        os.close(fd)
    return Usage(
        total=figures.f_blocks * figures.f_frsize,
        used=(figures.f_blocks - figures.f_bfree) * figures.f_frsize,
        available=figures.f_bavail * figures.f_frsize,
        inodes_total=figures.f_files,
        inodes_used=figures.f_files - figures.f_ffree,
        inodes_available=figures.f_favail,
    )
