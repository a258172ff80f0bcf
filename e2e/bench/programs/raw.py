"""Requests with as little around them as Python has: what an API server can be asked at all, and how quickly."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import yaml

AT_ONCE = 8
GROUP, VERSION, PLURAL = "bench.dynvol.example", "v1", "widgets"
NAMESPACE = "default"
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
ANSWER = json.dumps({"status": {"seen": True}}).encode()
"""The status patch by which each object is answered."""


def collection(namespace: str = NAMESPACE) -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"


@asynccontextmanager
async def session(kubeconfig: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """With the key that stands in the kubeconfig, as those of tests have it."""
    config = yaml.safe_load(kubeconfig.read_text())  # noqa: ASYNC240 - before anything else goes on
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    tls = ssl.create_default_context(cadata=_bytes(cluster, "certificate-authority", kubeconfig.parent).decode())
    with tempfile.NamedTemporaryFile(suffix=".pem") as pair:
        pair.write(_bytes(user, "client-certificate", kubeconfig.parent) + b"\n" + _bytes(user, "client-key", kubeconfig.parent))
        pair.flush()
        tls.load_cert_chain(pair.name)
    connector = aiohttp.TCPConnector(ssl=tls, limit=4 * AT_ONCE)
    async with aiohttp.ClientSession(cluster["server"], connector=connector, raise_for_status=True) as opened:
        yield opened


def _bytes(section: dict[str, str], key: str, folder: Path) -> bytes:
    inside = section.get(f"{key}-data")
    return base64.b64decode(inside) if inside else (folder / section[key]).read_bytes()
