"""An API server with nothing behind it, in processes of its own, so that what it takes is nobody else's."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from e2e.cluster import real
from e2e.cluster.apiserver import pki
from e2e.grounds.envtest import EnvTest, free_ports

from .programs import environment


@asynccontextmanager
async def apiserver(folder: Path, *, own: bool = False) -> AsyncIterator[Path]:
    """The administrator's kubeconfig: of a real kube-apiserver where its programs are, or else, or if `own`, of the project's."""
    programs = real.programs()
    if programs is None or own:
        async with _own(folder) as kubeconfig:
            yield kubeconfig
    else:
        async with EnvTest(programs, folder) as plane:
            yield plane.kubeconfig


@asynccontextmanager
async def _own(folder: Path) -> AsyncIterator[Path]:
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    files = pki.ensure(folder, server=f"https://{address}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "e2e.cluster.apiserver", "--state", str(folder), "--listen", address),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    try:
        if not await process.stdout.readline():
            raise RuntimeError("the API server ended before it served")
        yield files.admin_kubeconfig
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()
