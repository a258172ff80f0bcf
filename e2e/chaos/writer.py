"""The program in chaos' containers: writes, syncs, closes, reads back and lists in every mount that it finds, all the time.

    python3 -I -S writer.py LEDGER NAME PAUSE ROOT…

Standard library only, since it runs in a container. Each mount has a thread of its own, so that one that hangs holds up no other.
Whatever fails is tried again with the next file: programs that give up are not what is tested here.

What it did is written outside of all mounts, one line each, in a single write(2):

    <seconds since boot> <word> <mount> <key> <size>

    try     a file is about to be written; from here on it may be in the bucket, in part
    done    it was closed without an error: from here on it must be in the bucket, in whole
    failed  it was not; what is in the bucket is undefined
    wrong   it was read back, and other bytes came: how many, and the first and the last line, as which writing they are known
    unread  it could not be read back
"""

import contextlib
import errno
import os
import sys
import threading
import time


def body(key: str, size: int) -> bytes:
    """What a file holds: worked out from its name, so that anyone can check it."""
    line = f"{key}\n".encode()
    return (line * (size // len(line) + 1))[:size]


def size_of(number: int) -> int:
    """Mostly small, some of a hundred KiB."""
    return 100_000 + number if number % 17 == 0 else 1 + number * 37 % 4096


class Mount:
    def __init__(self, ledger: int, path: str, name: str) -> None:
        self.ledger = ledger
        self.path = path
        self.name = name

    def note(self, word: str, key: str, size: int) -> None:
        os.write(self.ledger, f"{time.monotonic():.3f} {word} {self.path} {key} {size}\n".encode())

    def turn(self, number: int) -> None:
        """One file that is new, and now and then one that was written before."""
        self.write(f"{self.name}-{number:06}", number)
        if number % 5 == 0:
            self.write(f"{self.name}-latest", number)
        if number % 10 == 0:
            self.list()

    def write(self, key: str, number: int) -> None:
        size = size_of(number)
        content = body(f"{key}#{number}", size)
        self.note("try", f"{key}#{number}", size)
        try:
            self.put(key, content)
        except OSError as error:
            self.note(f"failed:{errno.errorcode.get(error.errno or 0, '?')}", f"{key}#{number}", size)
            return
        self.note("done", f"{key}#{number}", size)
        try:
            found = self.get(key)
            word = "read" if found == content else f"wrong:{told(found)}"
        except OSError as error:
            word = f"unread:{errno.errorcode.get(error.errno or 0, '?')}"
        if word != "read":
            self.note(word, f"{key}#{number}", size)

    def put(self, key: str, content: bytes) -> None:
        file = os.open(f"{self.path}/{key}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(file, view) :]
            os.fsync(file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(file)
            raise
        os.close(file)

    def get(self, key: str) -> bytes:
        with open(f"{self.path}/{key}", "rb", buffering=0) as file:
            return file.readall() or b""

    def list(self) -> None:
        with contextlib.suppress(OSError):
            os.listdir(self.path)


def told(found: bytes) -> str:
    """In one word."""
    lines = found.decode(errors="replace").split("\n")
    return f"{len(found)}:{lines[0]}:{lines[-2] if len(lines) > 1 else ''}".replace(" ", "_")


def follow(mount: Mount, pause: float) -> None:
    """Until its directory has gone from the volume's root."""
    root, name = os.path.split(mount.path)
    number = 0
    while name in names(root):
        number += 1
        mount.turn(number)
        time.sleep(pause)


def names(root: str) -> list[str]:
    """What is in a volume's root, which is a directory of the node: listing it asks no FUSE client."""
    try:
        return os.listdir(root)
    except OSError:
        return []


def main(ledger_file: str, name: str, pause: str, *roots: str) -> None:
    ledger = os.open(ledger_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    threads: dict[str, threading.Thread] = {}
    while True:
        for path in [f"{root}/{entry}" for root in roots for entry in names(root)]:
            if path not in threads or not threads[path].is_alive():
                mount = Mount(ledger, path, f"{name}-{os.urandom(3).hex()}")
                threads[path] = threading.Thread(target=follow, args=(mount, float(pause)), daemon=True)
                threads[path].start()
        time.sleep(0.5)


if __name__ == "__main__":
    main(*sys.argv[1:])
