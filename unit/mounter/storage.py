"""Real servers on loopback, for tests: `rclone serve`, over a directory. That for S3 checks signatures."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .authority import Authority

ACCESS_KEY = "test-access"
SECRET_KEY = "test-secret-which-is-long"


def rclone() -> str:
    """A newer rclone than Debian's, which cannot serve S3: that of the virtual environment."""
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    assert found is not None
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Key = tuple[str, str]
OWN_KEY: Key = (ACCESS_KEY, SECRET_KEY)


class Server:
    """A process that serves while it is up."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def down(self) -> None:
        """As in a crash. From now on connections are refused."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """From now on it accepts connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class Storage(Server):
    """Buckets are directories, objects are files. It has a server while it is `up`."""

    def __init__(self, directory: Path, *, authority: Authority | None = None) -> None:
        super().__init__()
        self.directory = directory
        self.port = free_port()
        self._authority = authority

    @property
    def url(self) -> str:
        return f"{'https' if self._authority else 'http'}://127.0.0.1:{self.port}"

    def make_bucket(self, name: str, /, **objects: str) -> Path:
        path = self.directory / name
        path.mkdir(parents=True)
        for key, text in objects.items():
            (path / key).write_text(text)
        return path

    def up(self, *keys: Key) -> None:
        """From now on it takes these keys and no other: its own, if none is named."""
        self._up(*(f"--auth-key={access},{secret}" for access, secret in keys or (OWN_KEY,)))

    def up_for_anyone(self) -> None:
        """From now on it asks for no key."""
        self._up()

    def _up(self, *keys: str) -> None:
        self.down()
        self._process = _start("s3", self.directory, self.port, *keys, *_certified(self._authority))


@contextlib.contextmanager
def serving(directory: Path, *, authority: Authority | None = None) -> Iterator[Storage]:
    storage = Storage(directory, authority=authority)
    try:
        storage.up()
        yield storage
    finally:
        storage.down()


@contextlib.contextmanager
def serving_files(protocol: str, directory: Path, *, authority: Authority | None = None) -> Iterator[int]:
    """`webdav` or `sftp`, for user `ACCESS_KEY` with the password `SECRET_KEY`. Gives the port."""
    port = free_port()
    with _start(protocol, directory, port, "--user", ACCESS_KEY, "--pass", SECRET_KEY, *_certified(authority)) as server:
        try:
            yield port
        finally:
            server.kill()


def obscured(password: str) -> str:
    """As rclone's configuration file has passwords."""
    return subprocess.run([rclone(), "obscure", "-"], input=password, capture_output=True, text=True, check=True).stdout.strip()


def _certified(authority: Authority | None) -> list[str]:
    return ["--cert", str(authority.certificate), "--key", str(authority.key)] if authority else []


def _start(protocol: str, directory: Path, port: int, *options: str) -> subprocess.Popen[bytes]:
    """A server that listens already."""
    directory.mkdir(parents=True, exist_ok=True)
    command = [rclone(), "serve", protocol, str(directory), "--addr", f"127.0.0.1:{port}", *options]
    command += ["--config", "/dev/null", "--vfs-cache-mode", "off", "--dir-cache-time", "1s"]
    environment = {"PATH": os.defpath, "HOME": str(directory.parent)}
    server = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port, server)
    except BaseException:
        server.kill()
        server.wait()
        raise
    return server


def wait_for(port: int, server: subprocess.Popen[bytes], *, host: str = "127.0.0.1") -> None:
    """A port cannot be waited for but by trying it."""
    deadline = time.monotonic() + 20
    while True:
        assert server.poll() is None, "the server ended"
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        assert time.monotonic() < deadline, "the server does not listen"
        time.sleep(0.01)
