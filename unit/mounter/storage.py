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


class Storage:
    """Buckets are directories, objects are files."""

    def __init__(self, directory: Path, port: int, server: subprocess.Popen[bytes], *, scheme: str) -> None:
        self.directory = directory
        self.port = port
        self._server = server
        self._scheme = scheme

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def make_bucket(self, name: str, /, **objects: str) -> Path:
        path = self.directory / name
        path.mkdir(parents=True)
        for key, text in objects.items():
            (path / key).write_text(text)
        return path

    def pause(self) -> None:
        """From now on it accepts connections and answers nothing."""
        self._server.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._server.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def serving(directory: Path, *, authority: Authority | None = None) -> Iterator[Storage]:
    keys = ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
    with _served("s3", directory, *keys, *_certified(authority)) as (port, server):
        yield Storage(directory, port, server, scheme="https" if authority else "http")


@contextlib.contextmanager
def serving_files(protocol: str, directory: Path, *, authority: Authority | None = None) -> Iterator[int]:
    """`webdav` or `sftp`, for user `ACCESS_KEY` with the password `SECRET_KEY`. Gives the port."""
    login = ["--user", ACCESS_KEY, "--pass", SECRET_KEY]
    with _served(protocol, directory, *login, *_certified(authority)) as (port, _):
        yield port


def obscured(password: str) -> str:
    """As rclone's configuration file has passwords."""
    return subprocess.run([rclone(), "obscure", "-"], input=password, capture_output=True, text=True, check=True).stdout.strip()


def _certified(authority: Authority | None) -> list[str]:
    return ["--cert", str(authority.certificate), "--key", str(authority.key)] if authority else []


@contextlib.contextmanager
def _served(protocol: str, directory: Path, *options: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [rclone(), "serve", protocol, str(directory), "--addr", f"127.0.0.1:{port}", *options]
    command += ["--config", "/dev/null", "--vfs-cache-mode", "off", "--dir-cache-time", "1s"]
    environment = {"PATH": os.defpath, "HOME": str(directory.parent)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port, server)
            yield port, server
        finally:
            server.kill()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    """A port cannot be waited for but by trying it."""
    deadline = time.monotonic() + 20
    while True:
        assert server.poll() is None, "the server ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < deadline, "the server does not listen"
        time.sleep(0.01)
