"""A FUSE daemon for tests: one read-only file, `hello`, spoken in the kernel's own protocol (linux/fuse.h).

Small enough to start in milliseconds, and able to do what no real daemon does on request: read a question and never answer
it, which leaves whoever asked in a state that not even SIGKILL ends.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable

from dynvol.mount import syscalls
from unit.mount.namespaces import Namespace

CONTENT = b"from the daemon\n"
_ROOT, _FILE = 1, 2
_FORGET, _BATCH_FORGET, _INTERRUPT = 2, 42, 36


def start_daemon(namespace: Namespace, path: str, *, source: str = "tiny", never_answer_statfs: bool = False) -> int:
    """The pid of a daemon that has mounted itself at `path` inside `namespace`, and serves."""

    def work(ready: Callable[[], None]) -> None:
        fd = mount(path, source=source)
        ready()
        serve(fd, never_answer_statfs=never_answer_statfs)

    return namespace.start(work)


def mount(path: str, *, source: str) -> int:
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other"
    syscalls.mount(path, source=source, fstype="fuse.tiny", data=options)
    return fd


def serve(fd: int, *, never_answer_statfs: bool = False) -> None:
    """Until the mount is gone."""
    while True:
        try:
            request = os.read(fd, 1 << 18)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            if error.errno in (errno.EINTR, errno.ENOENT):
                continue
            raise
        _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
        if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT) or (opcode == 17 and never_answer_statfs):
            continue
        number, body = _reply(opcode, node, request[40:])
        os.write(fd, struct.pack("<IiQ", 16 + len(body), -number, unique) + body)


def _reply(opcode: int, node: int, body: bytes) -> tuple[int, bytes]:
    match opcode:
        case 26:  # INIT
            return 0, struct.pack("<IIIIHHIIHHI28x", 7, 31, 65536, 0, 16, 12, 65536, 1, 16, 0, 0)
        case 1:  # LOOKUP
            if body.rstrip(b"\0") != b"hello":
                return errno.ENOENT, b""
            return 0, struct.pack("<QQQQII", _FILE, 0, 0, 0, 0, 0) + _attributes(_FILE)
        case 3:  # GETATTR
            return 0, struct.pack("<QII", 0, 0, 0) + _attributes(node)
        case 14 | 27:  # OPEN, OPENDIR
            return 0, struct.pack("<QII", 0, 0, 0)
        case 15:  # READ
            offset, size = struct.unpack_from("<8xQI", body)
            return 0, CONTENT[offset : offset + size]
        case 28:  # READDIR
            offset = struct.unpack_from("<8xQ", body)[0]
            return 0, b"" if offset else struct.pack("<QQII8s", _FILE, 1, 5, 8, b"hello")
        case 17:  # STATFS
            return 0, struct.pack("<QQQQQIIII24x", 1000, 500, 500, 10, 5, 4096, 255, 4096, 0)
        case 25 | 18 | 29 | 34:  # FLUSH, RELEASE, RELEASEDIR, ACCESS
            return 0, b""
    return errno.ENOSYS, b""


def _attributes(node: int) -> bytes:
    mode, size = (0o040755, 0) if node == _ROOT else (0o100644, len(CONTENT))
    return struct.pack("<QQQQQQIIIIIIIIII", node, size, 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
