from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dynvol.kube.client import KubeClient

from .server import Script, kubeconfig, serving


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def client(script: Script, tmp_path: Path) -> AsyncIterator[KubeClient]:
    """Talks to the script without TLS."""
    async with serving(script) as url, KubeClient.connect(kubeconfig(tmp_path / "kubeconfig", url)) as client:
        yield client
