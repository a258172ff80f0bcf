"""A real control plane without a cluster: etcd and kube-apiserver from a folder of programs, on loopback.

Unlike `e2e.cluster.real`, which has them in a whole cluster. There is no scheduler, no controller manager and no kubelet: what they
would do does not happen, unless someone plays their part.
"""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import socket
import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp

from .pki import Authority, Pair, key_pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

START_DEADLINE: Final = 90.0
STOP_DEADLINE: Final = 10.0
ADMIN: Final = "dynvol-test-admin"


@dataclass(frozen=True, slots=True)
class ControlPlane:
    url: str
    kubeconfig: Path
    """Of a member of `system:masters`."""
    authority: Authority
    etcd_url: str
    state_dir: Path

    def kubeconfig_for(self, user: str, *, group: str = "") -> Path:
        """Of another user, who may do what RBAC grants."""
        path = self.state_dir / f"{user.replace(':', '-')}.kubeconfig"
        write_kubeconfig(path, url=self.url, authority=self.authority, pair=self.authority.client(user, group=group), user=user)
        return path

    async def compact(self) -> None:
        """Makes etcd forget every version but the present: what then asks for an old one gets 410, unless a cache still has it."""
        async with aiohttp.ClientSession(self.etcd_url) as session:
            # Any answer carries the store's revision.
            async with session.post("/v3/kv/range", json={"key": "AA=="}) as answer:
                revision = (await answer.json())["header"]["revision"]
            async with session.post("/v3/kv/compaction", json={"revision": revision, "physical": True}) as answer:
                answer.raise_for_status()


class EnvTest:
    """`async with EnvTest(assets, state_dir) as control_plane`. All files are in `state_dir`; no process outlives the block."""

    def __init__(
        self,
        assets: Path,
        state_dir: Path,
        *,
        arguments: Sequence[str] = (),
        disabled_admission: Sequence[str] = ("ServiceAccount",),
    ) -> None:
        """`arguments` are appended to kube-apiserver's. The admission plugin that is disabled needs a controller manager."""
        self._assets = assets
        self._state = state_dir
        self._arguments = tuple(arguments)
        self._disabled = tuple(disabled_admission)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> ControlPlane:
        async with AsyncExitStack() as stack:
            plane = await self._start(stack)
            self._stack = stack.pop_all()
        return plane

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self, stack: AsyncExitStack) -> ControlPlane:
        self._state.mkdir(parents=True, exist_ok=True)
        authority = Authority()
        etcd_port, peer_port, api_port = free_ports(3)
        etcd_url, url = f"http://127.0.0.1:{etcd_port}", f"https://127.0.0.1:{api_port}"
        etcd = await stack.enter_async_context(
            self._running("etcd", self._etcd_arguments(etcd_url, peer_url=f"http://127.0.0.1:{peer_port}"))
        )
        await self._until_ready(etcd, f"{etcd_url}/health")
        kubeconfig = self._state / "kubeconfig"
        pair = authority.client(ADMIN, group="system:masters")
        write_kubeconfig(kubeconfig, url=url, authority=authority, pair=pair, user=ADMIN)
        server = await stack.enter_async_context(
            self._running("kube-apiserver", self._server_arguments(authority, etcd_url=etcd_url, port=api_port))
        )
        await self._until_ready(server, f"{url}/readyz", tls=self._tls(authority, pair))
        return ControlPlane(url=url, kubeconfig=kubeconfig, authority=authority, etcd_url=etcd_url, state_dir=self._state)

    def _etcd_arguments(self, url: str, *, peer_url: str) -> list[str]:
        return [
            f"--data-dir={self._state / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peer_url}",
            f"--initial-advertise-peer-urls={peer_url}",
            f"--initial-cluster=default={peer_url}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _server_arguments(self, authority: Authority, *, etcd_url: str, port: int) -> list[str]:
        certificate, key = authority.server("127.0.0.1", "localhost", "kubernetes.default.svc", "10.96.0.1").write(
            self._state, "server"
        )
        authority_file = self._state / "ca.crt"
        authority_file.write_bytes(authority.certificate)
        private, public = key_pair()
        signing, verifying = self._state / "service-accounts.key", self._state / "service-accounts.pub"
        signing.touch(mode=0o600)
        signing.write_bytes(private)
        verifying.write_bytes(public)
        return [
            f"--etcd-servers={etcd_url}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={port}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={authority_file}",
            f"--service-account-signing-key-file={signing}",
            f"--service-account-key-file={verifying}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            f"--disable-admission-plugins={','.join(self._disabled)}",
            f"--cert-dir={self._state}",
            *self._arguments,
        ]

    @asynccontextmanager
    async def _running(self, program: str, arguments: Sequence[str]) -> AsyncIterator[_Program]:
        log = self._state / f"{program}.log"
        # With nothing of our environment: proxies and certificate settings are not meant for loopback.
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                self._assets / program,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={},
                cwd=self._state,
            )
        try:
            yield _Program(program, process, log)
        finally:
            await asyncio.shield(_stop(process))

    async def _until_ready(self, program: _Program, url: str, *, tls: ssl.SSLContext | bool = True) -> None:
        try:
            async with asyncio.timeout(START_DEADLINE), aiohttp.ClientSession() as session:
                while not await _answers(session, url, tls):
                    program.check()
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise RuntimeError(f"{program.name} was not ready in time:\n{program.last_words()}") from None

    def _tls(self, authority: Authority, pair: Pair) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=authority.certificate.decode())
        context.load_cert_chain(*pair.write(self._state, "admin"))
        return context


@dataclass(frozen=True, slots=True)
class _Program:
    name: str
    process: asyncio.subprocess.Process
    log: Path

    def check(self) -> None:
        if self.process.returncode is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.last_words()}")

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


async def _answers(session: aiohttp.ClientSession, url: str, tls: ssl.SSLContext | bool) -> bool:
    try:
        async with session.get(url, ssl=tls, timeout=aiohttp.ClientTimeout(total=2)) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_DEADLINE):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now. Somebody may a moment later; on loopback nobody does."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def write_kubeconfig(path: Path, *, url: str, authority: Authority, pair: Pair, user: str) -> None:
    """With everything inside, nothing beside it. JSON, which is YAML."""
    cluster = {"server": url, "certificate-authority-data": _base64(authority.certificate)}
    identity = {"client-certificate-data": _base64(pair.certificate), "client-key-data": _base64(pair.key)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": user, "user": identity}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
        "current-context": "test",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
