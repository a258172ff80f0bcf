"""What is wanted, on disk: one file, replaced in one step, that only root may read. There is nothing secret in it.

The order of writing is the caller's: before a mount is begun, and after an unmount has ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

import msgspec

from dynvol.api.mounts import WantedMount

from .errors import RecordsUnreadable

_FORMAT: Final = 1


class _File(msgspec.Struct, frozen=True):
    format: int
    mounts: list[WantedMount]


class Records:
    """Of one service; `directory` is its own. Calls block on the disk, and are made one at a time."""

    def __init__(self, directory: str) -> None:
        self._path: Final = os.path.join(directory, "mounts.json")

    def read(self) -> list[WantedMount]:
        """What was written last; nothing if nothing ever was. Raises RecordsUnreadable: to go on as if nothing had been wanted
        would strike it all out with the next write."""
        try:
            with open(self._path, "rb") as file:
                found = msgspec.json.decode(file.read(), type=_File)
        except FileNotFoundError:
            return []
        except (msgspec.MsgspecError, OSError) as error:
            raise RecordsUnreadable(f"{self._path} cannot be read ({error}); mend it, or remove it to begin anew") from error
        if found.format != _FORMAT:
            raise RecordsUnreadable(f"{self._path} has format {found.format}, and this version knows {_FORMAT} only")
        return found.mounts

    def write(self, mounts: Iterable[WantedMount]) -> None:
        """Afterwards it is on the disk, whatever happens to the machine. Raises OSError."""
        content = msgspec.json.encode(_File(_FORMAT, sorted(mounts, key=lambda mount: mount.path)), order="deterministic")
        fresh = f"{self._path}.new"
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(fresh, self._path)
        _sync(os.path.dirname(self._path))


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
