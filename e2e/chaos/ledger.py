"""What programs were told is written, held against what is in the buckets. Pure, but for reading the writers' lines."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from e2e.chaos.writer import body

_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Line:
    """One of the writer's. `key` is of the object, `number` which writing of it."""

    seconds: float
    word: str
    mount: str
    key: str
    number: str
    size: int

    @property
    def content(self) -> bytes:
        return body(f"{self.key}#{self.number}", self.size)


@dataclass(frozen=True, slots=True)
class Served:
    """A file that was closed without an error, in seconds since boot."""

    began: float
    done: float


@dataclass(slots=True)
class _File:
    closed: Line | None = None
    maybe: list[Line] = field(default_factory=list)
    """Written after it, or being written: each of these may be what is there instead, in whole or in part."""


class Ledger:
    """Everything that all writers said, read as it grows. `files` has one ledger for each pod."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._files: dict[str, _File] = {}
        self.served: dict[tuple[str, str], Served] = {}
        """(pod, mount) → the last file that was closed there."""
        self.done = 0
        self.failed: dict[str, int] = {}
        self.wrong: list[str] = []

    def catch_up(self) -> None:
        """Take in what was written since the last call."""
        for file in sorted(self._folder.iterdir()):
            with file.open("rb") as lines:
                lines.seek(self._read.get(file, 0))
                data = lines.read()
            whole = data.rfind(b"\n") + 1
            self._read[file] = self._read.get(file, 0) + whole
            for text in data[:whole].decode().splitlines():
                self.take(file.name, parsed(text))

    def take(self, pod: str, line: Line) -> None:
        known = self._files.setdefault(line.key, _File())
        match line.word.partition(":")[0]:
            case "try":
                known.maybe.append(line)
            case "done":
                began = next((each.seconds for each in known.maybe if each.number == line.number), line.seconds)
                self.served[pod, line.mount] = Served(began, line.seconds)
                known.closed = line
                known.maybe = [each for each in known.maybe if each.seconds > line.seconds]
                self.done += 1
            case "failed":
                self.failed[line.word] = self.failed.get(line.word, 0) + 1
            case "wrong":
                found = line.word.partition(":")[2]
                self.wrong.append(f"{pod} read {found} from {line.mount}/{line.key} after writing #{line.number} at {line.seconds}")

    def lost(self, digests: Mapping[str, str], *, before: float = math.inf) -> Sequence[str]:
        """The files that were closed without an error before `before`, and are not, byte for byte, in a bucket. `digests`: key →
        MD5 in hex."""
        due = {key: file for key, file in self._files.items() if file.closed is not None and file.closed.seconds < before}
        return [f"{key}: {problem}" for key, file in due.items() if (problem := _problem(file, digests.get(key)))]

    def proven(self, digests: Mapping[str, str], *, before: float) -> Sequence[str]:
        """Most of those closed before `before` that are in a bucket as they should be. They are forgotten, and their objects go:
        listings must not grow without end. Some are kept to the end, for what is there can also vanish again."""
        found = [key for key, file in self._files.items() if _is_settled(file, digests.get(key), before) and not _is_kept(file)]
        for key in found:
            del self._files[key]
        return found


def parsed(text: str) -> Line:
    seconds, word, mount, name, size = text.split(" ")
    key, _, number = name.partition("#")
    return Line(float(seconds), word, mount, key, number, int(size))


def _is_settled(file: _File, found: str | None, before: float) -> bool:
    closed = file.closed
    return closed is not None and closed.seconds < before and not file.maybe and not _problem(file, found)


def _is_kept(file: _File) -> bool:
    """One that is written again and again, and one of ten of the others."""
    return file.closed is not None and (file.closed.key.endswith("-latest") or file.closed.number.endswith("0"))


def _problem(file: _File, found: str | None) -> str:
    if file.closed is None:
        return ""
    if found is None:
        return f"closed at {file.closed.seconds} in {file.closed.mount}, and in no bucket"
    if found == _digest(file.closed.content) or any(found in _digests_in_part(line.content) for line in file.maybe):
        return ""
    return f"closed at {file.closed.seconds} in {file.closed.mount}; the bucket holds something else"


def _digests_in_part(content: bytes) -> Iterator[str]:
    """Of all that may be there of a file whose writing was begun and never ended without an error. It was emptied as it was opened;
    when its program was killed, the kernel closed it as far as it was written, by whole pages."""
    yield _digest(content)
    yield from (_digest(content[:end]) for end in range(0, len(content), _PAGE))


def _digest(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()
