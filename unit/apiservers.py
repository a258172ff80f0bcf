"""API servers for tests that need one: the project's own always, a real kube-apiserver where there is one. And kubectl.

The same tests run on both. What the small one gets wrong shows here, as a test that passes on one and fails on the other.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster import real
from e2e.cluster.apiserver import pki
from e2e.cluster.apiserver.server import Settings, running
from e2e.grounds.envtest import EnvTest, free_ports
from e2e.kubectl import SHORT_LIVED

CONFIG = Path(__file__).parents[1] / "config"
DEADLINE = 30.0

KINDS = [
    pytest.param("own", id="own API server"),
    pytest.param(
        "real",
        id="kube-apiserver",
        marks=pytest.mark.skipif(real.programs() is None, reason=real.MISSING),
    ),
]
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")


@asynccontextmanager
async def apiserver(kind: str, state: Path) -> AsyncIterator[Kubectl]:
    """An empty one, and its administrator's kubectl."""
    if kind == "real":
        directory = real.programs()
        assert directory is not None
        async with EnvTest(directory, state) as plane:
            yield Kubectl(plane.kubeconfig)
    else:
        (port,) = free_ports(1)
        files = pki.ensure(state, server=f"https://127.0.0.1:{port}")
        async with running(Settings(files=files, host="127.0.0.1", port=port)):
            yield Kubectl(files.admin_kubeconfig, real=False)


@dataclass(frozen=True)
class Kubectl:
    kubeconfig: Path
    real: bool = True
    """Whether a kube-apiserver is at the other end."""

    async def __call__(self, *arguments: str, given: str = "") -> tuple[int, str]:
        """Exit status, and what it said on both streams."""
        process = await asyncio.create_subprocess_exec(
            "kubectl",
            f"--kubeconfig={self.kubeconfig}",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(self.kubeconfig.parent), **SHORT_LIVED},
        )
        output, _ = await process.communicate(given.encode())
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def ok(self, *arguments: str, given: str = "") -> str:
        status, said = await self(*arguments, given=given)
        assert status == 0, said
        return said

    async def apply(self, *objects: dict[str, Any]) -> str:
        return await self.ok("apply", "-f", "-", given=yaml.safe_dump_all(objects))

    async def tried(self, obj: dict[str, Any]) -> tuple[int, str]:
        """What would become of an object."""
        return await self("create", "--dry-run=server", "-o", "yaml", "-f", "-", given=json.dumps(obj))

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self.ok(*arguments, "-o", "json"))

    async def account(self, name: str, *, namespace: str, pod: str = "") -> Kubectl:
        """A service account's, with a token that is bound to a pod, if need be."""
        bound = ("--bound-object-kind=Pod", f"--bound-object-name={pod}") if pod else ()
        token = await self.ok("create", "token", name, "-n", namespace, *bound)
        config = yaml.safe_load(self.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token.strip()}
        path = self.kubeconfig.with_name(f"{name}.kubeconfig")
        path.write_text(json.dumps(config))
        return Kubectl(path, self.real)


async def eventually(condition: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    """For what an API server takes up in its own time and tells nobody."""
    async with asyncio.timeout(DEADLINE):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.1)
