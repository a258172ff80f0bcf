"""Two servers for the controllers' tests, ours and a real kube-apiserver where one is at hand. A test never asks which."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from dynvol.kube.client import KubeClient
from dynvol.kube.configuration import connect
from e2e.cluster import real
from e2e.cluster.apiserver import pki
from e2e.cluster.apiserver.server import Settings, running
from e2e.grounds.envtest import EnvTest, free_ports

from .world import World, install_definitions
from .world import world as a_world


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=["own", "real"])
async def kubeconfig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """Of the administrator of a server that knows claims and classes."""
    state = tmp_path_factory.mktemp(f"server-{request.param}")
    async with AsyncExitStack() as stack:
        if request.param == "own":
            (port,) = free_ports(1)
            files = pki.ensure(state, server=f"https://127.0.0.1:{port}")
            await stack.enter_async_context(running(Settings(files=files, port=port)))
            found = files.admin_kubeconfig
        else:
            directory = real.programs()
            if directory is None:
                pytest.skip(real.MISSING)
            plane = await stack.enter_async_context(EnvTest(directory, state))
            found = plane.kubeconfig
        async with KubeClient.connect(found) as admin:
            await install_definitions(admin)
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def world(kubeconfig: Path) -> AsyncIterator[World]:
    """A namespace, a driver's namespace and a node that are the test's own."""
    async with a_world(partial(connect, kubeconfig)) as made:
        yield made
