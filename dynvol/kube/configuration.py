"""Where the API server is, how it is trusted, and who we are: from a kubeconfig, or from the pod's service account.

kubernetes_asyncio reads both. The CA and the client certificate are read once, when the connection is made; a token,
whatever it comes from, is read again for as long as the connection lives (`credentials`).
"""

from __future__ import annotations

import ipaddress
import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from . import errors
from .connection import Connection, RequestMetrics, Unmeasured
from .credentials import Token, plugin, token_file
from .library import Library, load

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

POOL_SIZE: Final = 64
"""Connections: a node process has some ten watches, each with one of its own, and a few workers per controller."""
READ_BUFFER: Final = 64 * 1024
"""Bytes that are read ahead. kubernetes_asyncio has 2 MiB, for readers that want whole lines; ours takes what is there, and what is
there at once is decoded at once, while nothing else runs."""


@asynccontextmanager
async def connect(
    kubeconfig: Path | None = None,
    *,
    service_account: Path = SERVICE_ACCOUNT,
    environment: Mapping[str, str] = os.environ,
    metrics: RequestMetrics | None = None,
) -> AsyncIterator[Connection]:
    """A connection as `kubeconfig`'s current context says, or, without one, as the pod's service account.

    Nothing is sent yet. Raises `ConfigurationError`.
    """
    library = load()
    configuration = library.configuration()
    configuration.connection_pool_maxsize = POOL_SIZE
    # From 3.13 on Python asks for extensions in certificates that Go does not, and would refuse clusters that kubectl trusts.
    configuration.disable_strict_ssl_verification = True
    try:
        if kubeconfig is None:
            token = _from_service_account(configuration, library, directory=service_account, environment=environment)
            transport = _transport(configuration, library)
        else:
            token, transport = await _from_kubeconfig(configuration, library, path=kubeconfig)
    except Exception as error:
        # The loader does not look before it reads: what is wrong in shape fails in whatever way it happens to.
        raise errors.ConfigurationError(_unusable(kubeconfig, service_account, error)) from error
    configuration.refresh_api_key_hook = token.refresh
    try:
        yield Connection(configuration, transport, token, metrics=metrics or Unmeasured())
    finally:
        await transport.close()


def _from_service_account(configuration: Any, library: Library, *, directory: Path, environment: Mapping[str, str]) -> Token:
    token = directory / "token"
    loader = library.incluster.InClusterConfigLoader(
        token_filename=str(token), cert_filename=str(directory / "ca.crt"), try_refresh_token=False, environ=environment
    )
    loader.load_and_set(configuration)
    configuration.api_key["BearerToken"] = configuration.api_key["BearerToken"].strip()
    return Token(token_file(token))


async def _from_kubeconfig(configuration: Any, library: Library, *, path: Path) -> tuple[Token, Any]:
    """The loader writes keys that stand in the kubeconfig itself into files. They are gone as soon as TLS has read them."""
    os.stat(path)  # noqa: ASYNC240  # for its error: the loader only warns of a missing file, and fails later and darkly
    with tempfile.TemporaryDirectory(prefix="dynvol-kubeconfig-") as scratch:
        try:
            loader = await library.kubeconfig.load_kube_config(
                config_file=str(path), client_configuration=configuration, persist_config=False, temp_file_path=scratch
            )
            return _token_of(loader, directory=path.parent), _transport(configuration, library)
        finally:
            library.kubeconfig._cleanup_temp_files()


def _token_of(loader: Any, *, directory: Path) -> Token:
    user = loader._user
    if user is not None and "exec" in user:
        return Token(plugin(loader) if hasattr(loader, "token") else None)
    if user is not None and user.safe_get("tokenFile"):
        return Token(token_file(directory / user["tokenFile"]))
    return Token(None)


def _transport(configuration: Any, library: Library) -> Any:
    """Like kubectl, and unlike aiohttp, it does not go through the environment's proxies to reach the loopback address."""
    transport = library.rest.RESTClientObject(configuration)
    session = transport.pool_manager
    proxied = bool(configuration.proxy) or not _is_loopback(urlsplit(configuration.host).hostname or "")
    transport.pool_manager = aiohttp.ClientSession(connector=session.connector, trust_env=proxied, read_bufsize=READ_BUFFER)
    session.detach()
    return transport


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _unusable(kubeconfig: Path | None, service_account: Path, error: BaseException) -> str:
    if kubeconfig is not None:
        return f"kubeconfig {kubeconfig} cannot be used: {error}"
    return f"not in a pod with a service account ({service_account}), and no --kubeconfig given: {error}"
