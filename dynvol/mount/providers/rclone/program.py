"""The program rclone (1.60 and later) as a FUSE client, whatever storage it serves.

With its cache of writes it uploads after close(2), and when it is unmounted it ends with what is queued still on disk, marked
`Dirty` in the cache's metadata; the next start with the same cache goes on uploading. `unflushed` counts these marks: no port, no
password, and it works after the program has died too.

Everything about the storage goes into the configuration file, as the section `remote`; the remote on the command line is
`remote:path`, in which all after the first colon is taken as it stands.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ..contract import Command, Finding, Place
from ..options import Check, duration, integer, one_of, size, switch
from ..owner import Owner

_log: Final = logging.getLogger(__name__)

SMALL: Final = 174 << 20
"""Bytes. A client with less, as one that is alone in a class of 256Mi has, gets small buffers and few transfers at once."""
_REMOTE: Final = "remote"
_CONFIGURATION: Final = "rclone.conf"

ALLOWED_OPTIONS: Final[Mapping[str, Check]] = {
    "attr-timeout": duration,
    "buffer-size": size,
    "checkers": integer(1, 64),
    "contimeout": duration,
    "dir-cache-time": duration,
    "low-level-retries": integer(1, 30),
    "max-read-ahead": size,
    "no-checksum": switch,
    "no-modtime": switch,
    "timeout": duration,
    "transfers": integer(1, 32),
    "use-server-modtime": switch,
    "vfs-cache-max-age": duration,
    "vfs-cache-max-size": size,
    "vfs-cache-mode": one_of("off", "minimal", "writes", "full"),
    "vfs-fast-fingerprint": switch,
    "vfs-read-ahead": size,
    "vfs-read-chunk-size": size,
    "vfs-read-chunk-size-limit": size,
}
"""Those that make sense for any storage."""
CLAIM_OPTIONS: Final = frozenset(
    {"attr-timeout", "dir-cache-time", "no-modtime", "use-server-modtime", "vfs-read-ahead", "vfs-read-chunk-size"}
)
"""Those among them that claims may set too."""


def mount(
    path: str,
    place: Place,
    *,
    configuration: Sequence[str],
    owner: Owner,
    read_only: bool,
    options: Mapping[str, str],
    ca_file: str = "",
) -> Command:
    """Serves `path` of the storage that the lines of `configuration` describe.

    `options` win over what is set here for speed, not over what identifies and protects the mount.
    """
    chosen = {**_defaults(place.memory), **options, **_fixed(place, owner, read_only=read_only, ca_file=ca_file)}
    return Command(
        argv=("rclone", "mount", f"{_REMOTE}:{path}", place.mountpoint, *_flags(chosen)),
        environment=_environment(place),
        files={_CONFIGURATION: _section(configuration)},
        forgets_on=signal.SIGHUP,
        prepare=functools.partial(_prepare, place),
    )


def look(path: str, place: Place, *, configuration: Sequence[str], ca_file: str = "") -> Command:
    """Lists no more than that the directory is there; ends with 0 if it is."""
    options = {
        "config": f"{place.secrets}/{_CONFIGURATION}",
        "contimeout": "10s",
        "timeout": "20s",
        "low-level-retries": "1",
        "retries": "1",
        **({"ca-cert": ca_file} if ca_file else {}),
    }
    return Command(
        argv=("rclone", "lsf", "--max-depth=1", f"{_REMOTE}:{path}", *_flags(options)),
        environment=_environment(place),
        files={_CONFIGURATION: _section(configuration)},
    )


def unflushed(cache: str) -> int:
    """How many files wait in the cache for their upload."""
    return sum(_is_dirty(path) for path in _files_below(os.path.join(cache, "vfsMeta")))


def _prepare(place: Place) -> None:
    mend(place.cache)
    drop_superseded(place.cache, newer=place.newer)


def drop_superseded(cache: str, *, newer: Sequence[str]) -> None:
    """Removes what waits in a cache and was written again through a `newer` one: its upload, late as it is, would undo that."""
    for path in _files_below(os.path.join(cache, "vfsMeta")) if newer else ():
        name = os.path.relpath(path, os.path.join(cache, "vfsMeta"))
        if _is_dirty(path) and any(_is_later(os.path.join(other, "vfsMeta", name), than=path) for other in newer):
            _log.warning("what was left of a file is not uploaded: it was written again since", extra={"path": path})
            for left in (path, os.path.join(cache, "vfs", name)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(left)


def _is_later(path: str, *, than: str) -> bool:
    """Whether a file was written after another one, by this node's clock, as far as their metadata prove it: the time of one that
    was only read is the storage's, in whole seconds."""
    from datetime import datetime  # after a change of credentials only

    try:
        metadata = _read(path)
        written, before = (datetime.fromisoformat(found["ModTime"]) for found in (metadata, _read(than)))
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return written > before and bool(metadata.get("Dirty") or written.microsecond)


def mend(cache: str) -> None:
    """Gives the files of a cache their metadata back that a client was writing when it was killed.

    rclone (1.60) truncates and writes them in place, also when a file has just been closed; a successor that cannot read them
    throws the file away, closed or not. A file without holes is all there: it counts as closed, and as not uploaded. Of one with
    holes the rest is in the storage, and it was not closed.

    Nor does one put down what was written last that loses its mount together with its last open file. Its successor would ask the
    storage for those parts, again and again, also where they lie beyond the end of what is stored.
    """
    for path in _files_below(os.path.join(cache, "vfsMeta")):
        data = os.path.join(cache, "vfs", os.path.relpath(path, os.path.join(cache, "vfsMeta")))
        if (mended := _mended(path, data)) is not None:
            _log.warning("a client left the metadata of a file broken, or incomplete; the file is uploaded", extra={"path": data})
            _replace(path, mended, fresh=os.path.join(cache, "metadata.new"))


def _mended(path: str, data: str) -> dict[str, Any] | None:
    """What the metadata should be; None if that is what they are, or unclear."""
    try:
        metadata = _read(path)
    except OSError:
        return None
    except ValueError:
        return None if (whole := _whole_size(data)) is None else _uploadable(whole)
    return _completed(metadata, data)


def _completed(metadata: Mapping[str, Any], data: str) -> dict[str, Any] | None:
    """The metadata of a file that waits, with all in it that only the cache can have: what lies beyond the end of what is stored,
    or beyond where the file was cut off, for what is there now was written since. None if it is in it, or that is unclear."""
    if not metadata.get("Dirty"):
        return None
    try:
        size = os.stat(data).st_size
        stored = min(int((metadata["Fingerprint"] or "0").partition(",")[0]), metadata["Size"])
        ranges = sorted((part["Pos"], part["Pos"] + part["Size"]) for part in metadata["Rs"] or ())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    end = stored
    for begin, until in ranges:
        end = max(end, until) if begin <= end else end
    if end >= size:
        return None
    kept = [{"Pos": begin, "Size": min(until, stored) - begin} for begin, until in ranges if begin < stored]
    return {**metadata, "Size": size, "Rs": [*kept, {"Pos": stored, "Size": size - stored}]}


def _whole_size(path: str) -> int | None:
    """Of a file without holes."""
    try:
        with open(path, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            return length if length == 0 or os.lseek(file.fileno(), 0, os.SEEK_HOLE) == length else None
    except OSError:
        return None


def _uploadable(size: int) -> dict[str, Any]:
    """The metadata of a file that is there as a whole, and waits."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ranges = [{"Pos": 0, "Size": size}] if size else None
    return {"ModTime": now, "ATime": now, "Size": size, "Rs": ranges, "Fingerprint": "", "Dirty": True}


def _replace(path: str, metadata: Mapping[str, Any], *, fresh: str) -> None:
    """In one step, and not beside it: whatever is below `vfsMeta` rclone takes for metadata."""
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="utf-8") as file:
        json.dump(metadata, file)
    os.rename(fresh, path)


def _flags(options: Mapping[str, str]) -> Iterator[str]:
    return (f"--{name}={value}" if value else f"--{name}" for name, value in options.items())


def _section(lines: Sequence[str]) -> bytes:
    return "\n".join((f"[{_REMOTE}]", *lines, "")).encode()


def _defaults(memory: int | None) -> dict[str, str]:
    """What users may change. Server times and no checksums made a listing of 2,000 keys 45 times as fast."""
    small = memory is not None and memory < SMALL
    return {
        "vfs-cache-mode": "writes",
        "dir-cache-time": "60s",
        "contimeout": "10s",
        # Reads from a storage that fell silent fail within minutes. Until then not even SIGKILL ends a program that waits.
        "timeout": "60s",
        "low-level-retries": "4",
        # Without a limit rclone (1.60) hangs for good once its disk was full: it makes room until less than nothing is used.
        "vfs-cache-max-size": "10Gi",
        "use-server-modtime": "",
        "no-checksum": "",
        **({"buffer-size": "1Mi", "transfers": "2"} if small else {}),
    }


def _fixed(place: Place, owner: Owner, *, read_only: bool, ca_file: str) -> dict[str, str]:
    """What is not the user's to change."""
    return {
        "config": f"{place.secrets}/{_CONFIGURATION}",
        "cache-dir": place.cache,
        "devname": place.source,
        # Soon after the file is closed. With 0 it is at once, and a failed upload is never tried again; else at growing pauses.
        "vfs-write-back": "100ms",
        "allow-other": "",
        # Without it neither the kernel nor rclone looks at owner and mode.
        "default-permissions": "",
        "uid": str(owner.uid),
        "gid": str(owner.gid),
        # rclone reads the number as Go does: octal if it begins with 0.
        "umask": owner.umask,
        **({"read-only": ""} if read_only else {}),
        **({"ca-cert": ca_file} if ca_file else {}),
    }


def _environment(place: Place) -> dict[str, str]:
    """The Go runtime collects garbage harder as it nears GOMEMLIMIT."""
    base = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": place.secrets}
    return base if place.memory is None else {**base, "GOMEMLIMIT": str(place.memory)}


def _files_below(directory: str) -> Iterator[str]:
    for parent, _, files in os.walk(directory):
        yield from (os.path.join(parent, name) for name in files)


def _is_dirty(path: str) -> bool:
    """Metadata that cannot be read counts as dirty: keeping too much loses nothing. A file that went is one that is done."""
    try:
        return bool(_read(path).get("Dirty", False))
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True


def _read(path: str) -> dict[str, Any]:
    """A file's metadata. Raises OSError, ValueError."""
    with open(path, "rb") as file:
        metadata = json.load(file)
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} holds no object")
    return metadata


_LAST_WORDS: Final = (
    (
        re.compile(r"fusermount.*not found|fuse device not found|/dev/fuse"),
        "FuseUnavailable",
        "FUSE does not work on this node; load the module `fuse`",
    ),
    (re.compile(r"unknown (shorthand )?flag: \S+"), "ClientTooOld", "this rclone does not know an option that is set: {found}"),
)


def explain(output: str) -> Finding | None:
    for pattern, reason, message in _LAST_WORDS:
        if match := pattern.search(output):
            return Finding(reason, message.format(found=match[0]))
    return None
