"""The same tests on two servers: ours, and a real kube-apiserver where one is at hand. A test never asks which.

Tests of what only ours has (faults, the database, a kubelet that is played) take `own` instead of `ground`.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import ssl
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
from aiohttp.typedefs import Query

from e2e.cluster import real
from e2e.cluster.apiserver import pki
from e2e.cluster.apiserver.server import Server, Settings, running
from e2e.grounds.envtest import ControlPlane, EnvTest, free_ports

Object = dict[str, Any]
T = TypeVar("T")

_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    """Say that no event loop is set: looptime asks the policy before each test, which would make a loop that no one closes."""
    asyncio.set_event_loop(None)


@dataclass(frozen=True, slots=True)
class Ground:
    """A server that runs, and its administrator's kubeconfig."""

    url: str
    kubeconfig: Path
    kubeconfig_for: Callable[[str], Path]
    """Of another user, who may do what RBAC grants."""


@contextmanager
def in_background(make: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    """Hold an async context on a loop and thread of its own, so that it outlives the loops of single tests."""
    entered: list[T] = []
    failures: list[BaseException] = []
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    settled = threading.Event()

    async def hold() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        async with make() as value:
            entered.append(value)
            settled.set()
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(hold())
        except BaseException as error:
            failures.append(error)
        finally:
            settled.set()

    thread = threading.Thread(target=run, name="server")
    thread.start()
    settled.wait()
    try:
        if failures:
            raise failures[0]
        yield entered[0]
    finally:
        loop, stop = loops[0]
        if not failures:
            loop.call_soon_threadsafe(stop.set)
        thread.join()
    if failures:
        raise failures[0]


@asynccontextmanager
async def own_server(state: Path, **settings: Any) -> AsyncIterator[Server]:
    (port,) = free_ports(1)
    files = pki.ensure(state, server=f"https://127.0.0.1:{port}")
    async with running(Settings(files=files, port=port, **settings)) as server:
        yield server


@pytest.fixture(scope="session")
def own_state() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="apiserver-test-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def own_running(own_state: Path) -> Iterator[Server]:
    with in_background(lambda: own_server(own_state)) as server:
        yield server


@pytest.fixture(scope="session")
def real_running() -> Iterator[ControlPlane]:
    found = real.programs()
    if found is None:
        pytest.skip(real.MISSING)
    with (
        tempfile.TemporaryDirectory(prefix="apiserver-real-") as folder,
        in_background(lambda: EnvTest(found, Path(folder))) as plane,
    ):
        yield plane


def own_ground(state: Path) -> Ground:
    kubeconfig = pki.Files(state).admin_kubeconfig
    url = json.loads(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    return Ground(url, kubeconfig, lambda user: pki.kubeconfig(state, user=user))


@pytest.fixture(scope="session", params=["own", "real"])
def ground(request: pytest.FixtureRequest) -> Ground:
    if request.param == "own":
        request.getfixturevalue("own_running")
        return own_ground(request.getfixturevalue("own_state"))
    plane: ControlPlane = request.getfixturevalue("real_running")
    return Ground(plane.url, plane.kubeconfig, plane.kubeconfig_for)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str]

    def ok(self) -> Any:
        assert self.status < 300, f"{self.status}: {self.body}"
        return self.body

    def refused(self, status: int, *parts: str) -> Object:
        """The Status of a refusal, whose message has all the parts."""
        assert self.status == status, f"{self.status}: {self.body}"
        missing = [part for part in parts if part not in self.body["message"]]
        assert not missing, f"{self.body['message']!r} lacks {missing}"
        return dict(self.body)


class Client:
    """Plain HTTP to a server, as one user."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        kind: str = "application/json",
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": kind, **(headers or {})}
        async with self.session.request(method, path, data=data, params=query or {}, headers=sent) as answer:
            raw = await answer.read()
            content = json.loads(raw) if "json" in answer.content_type and raw else raw.decode()
            return Answer(answer.status, content, dict(answer.headers))

    async def get(self, path: str, **query: str) -> Answer:
        return await self.call("GET", path, query=query)

    async def post(self, path: str, body: Any, **query: str) -> Answer:
        return await self.call("POST", path, body, query=query)

    async def put(self, path: str, body: Any, **query: str) -> Answer:
        return await self.call("PUT", path, body, query=query)

    async def delete(self, path: str, body: Any = None, **query: str) -> Answer:
        return await self.call("DELETE", path, body, query=query)

    async def json_patch(self, path: str, *operations: Object, **query: str) -> Answer:
        return await self.call("PATCH", path, list(operations), kind="application/json-patch+json", query=query)

    async def merge_patch(self, path: str, change: Object, **query: str) -> Answer:
        return await self.call("PATCH", path, change, kind="application/merge-patch+json", query=query)

    async def strategic_patch(self, path: str, change: Object, **query: str) -> Answer:
        return await self.call("PATCH", path, change, kind="application/strategic-merge-patch+json", query=query)

    async def apply(self, path: str, intent: Object, *, manager: str, force: bool = False, **query: str) -> Answer:
        query |= {"fieldManager": manager, "force": str(force).lower()}
        return await self.call("PATCH", path, intent, kind="application/apply-patch+yaml", query=query)

    @asynccontextmanager
    async def watch(self, path: str, **query: str) -> AsyncIterator[AsyncIterator[Object]]:
        """The events of a watch, as they come."""
        params: Query = {"watch": "true", "timeoutSeconds": "20", **query}
        async with self.session.get(path, params=params) as answer:
            if answer.status != 200:
                raise AssertionError(f"{answer.status}: {await answer.text()}")
            try:
                yield _lines(answer)
            finally:
                # Closing politely would wait for the server, which is busy telling.
                if answer.connection and answer.connection.transport:
                    answer.connection.transport.abort()


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[Object]:
    async for line in answer.content:
        yield json.loads(line)


def client_tls(kubeconfig: Path) -> ssl.SSLContext:
    """With the certificate that a kubeconfig carries inside."""
    content = json.loads(kubeconfig.read_text())
    authority = base64.b64decode(content["clusters"][0]["cluster"]["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=authority)
    user = content["users"][0]["user"]
    pair = kubeconfig.with_suffix(".pem")
    pair.touch(mode=0o600)
    pair.write_bytes(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
    context.load_cert_chain(pair)
    return context


@asynccontextmanager
async def client_of(ground: Ground, kubeconfig: Path | None = None, **headers: str) -> AsyncIterator[Client]:
    connector = aiohttp.TCPConnector(ssl=client_tls(kubeconfig or ground.kubeconfig), limit=0)
    async with aiohttp.ClientSession(ground.url, connector=connector, headers=headers) as session:
        yield Client(session)
    # Closed connections are let go by the loop, which must turn for that before it is closed itself.
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def client(ground: Ground) -> AsyncIterator[Client]:
    async with client_of(ground) as found:
        yield found


@pytest.fixture
def own(own_running: Server, own_state: Path) -> Ground:
    """Ours, for what a real one does not have."""
    return own_ground(own_state)


@pytest.fixture
async def own_client(own: Ground) -> AsyncIterator[Client]:
    async with client_of(own) as found:
        yield found


async def new_namespace(client: Client) -> str:
    name = f"test-{os.getpid()}-{next(_numbers)}"
    (await client.post("/api/v1/namespaces", {"metadata": {"name": name}})).ok()
    (await client.post(f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})).ok()
    return name


@pytest.fixture
async def namespace(client: Client) -> str:
    """A namespace of the test's own, with the account that its pods need."""
    return await new_namespace(client)


@pytest.fixture
async def core(namespace: str) -> str:
    """The path of the namespace in the core group."""
    return f"/api/v1/namespaces/{namespace}"


@dataclass(frozen=True, slots=True)
class Kubectl:
    """The real kubectl, in one namespace."""

    kubeconfig: Path
    namespace: str
    home: Path

    def __call__(self, *arguments: str, stdin: Object | str | None = None, fails: bool = False) -> str:
        """What it prints; where it is to fail, what it complains of."""
        done = self.run(*arguments, stdin=json.dumps(stdin) if isinstance(stdin, dict) else stdin)
        assert (done.returncode != 0) is fails, f"kubectl {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stderr if fails else done.stdout

    def run(self, *arguments: str, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        flags = (f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}", f"--cache-dir={self.home}")
        return subprocess.run(
            ["kubectl", *arguments[:1], *flags, *arguments[1:]],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), **environment},
            check=False,
        )


@pytest.fixture
def kubectl(ground: Ground, namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    return Kubectl(ground.kubeconfig, namespace, tmp_path_factory.mktemp("kubectl"))


def pod(name: str, **spec: Any) -> Object:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": "busybox"}], **spec}}
