"""Child processes: an environment that carries nothing of the caller's, output as text, ends that are waited for.

The machine that this runs on sets variables (proxies, certificate bundles) that break S3 clients and gRPC. So a child
gets what is listed here, and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PATH = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The environment's own programs first: a kubectl may be there and nowhere else."""


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    return {"PATH": PATH, "HOME": os.environ.get("HOME", "/root"), "LANG": "C.UTF-8", **(extra or {})}


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    output: str
    errors: str


async def run(arguments: Sequence[str | Path], *, limit: float = 60.0) -> Outcome:
    """Run to the end and return what it said. It is killed after `limit` seconds, or when the caller is cancelled."""
    process = await asyncio.create_subprocess_exec(
        *(str(argument) for argument in arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    try:
        async with asyncio.timeout(limit):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Outcome(process.returncode, output.decode(errors="replace"), errors.decode(errors="replace"))
