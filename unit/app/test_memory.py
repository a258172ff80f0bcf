"""What is freed goes back, seen from outside: the memory of a process that does as a node process does at its start."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import re
from asyncio import sslproto
from pathlib import Path
from dynvol.app import memory

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

{call}
buffer = bytearray(1 << 20)
del buffer
pages = [bytearray(100 << 10) for _ in range(400)]
held = resident()
del pages[::2]
print(held - resident(), sslproto.SSLProtocol.max_size)
"""


def given_back(call: str) -> tuple[int, int]:
    """KiB of the 20,000 that were freed between others, and the bytes of a TLS connection's buffer."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(call=call)], stdout=subprocess.PIPE, check=True, text=True)
    freed, buffer = map(int, done.stdout.split())
    return freed, buffer


def test_a_page_that_is_done_with_is_given_back_and_connections_have_small_buffers() -> None:
    freed, buffer = given_back("memory.keep_less()")
    assert freed > 18_000
    assert buffer <= 32 * 1024
    assert given_back("")[0] < 2_000, "as it would be anyway: then keep_less is of no use any more"
