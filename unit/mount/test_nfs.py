"""The program that stands for a mount of NFS, run for real, but for the one thing that not every kernel has: NFS. ramfs stands in
for it, which takes any source and ignores any option; and where it must hang, a FUSE file system with a stopped daemon."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dynvol.api.mounts import SOURCE_PREFIX
from dynvol.mount import fuse, mountinfo, nfs, propagation, syscalls
from dynvol.mount.mountinfo import Mount
from unit.mount.fusedaemon import mount, serve
from unit.mount.namespaces import at_most, start_child
from unit.mounter.nfsserver import without_client

CONNECTED = ("127.0.0.1", 2049)


@pytest.fixture
def place(playground: str) -> str:
    """A directory to mount at, made in the test: the playground is a mount itself there."""
    return f"{playground}/private"


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nfs, "FSTYPE", "ramfs")
    monkeypatch.setattr(mountinfo, "NFS", frozenset({"nfs", "nfs4", "ramfs"}))


@contextlib.contextmanager
def started(place: str, *, read_only: bool = False) -> Iterator[subprocess.Popen[str]]:
    argv = nfs.served(
        place,
        source=nfs.source("dynvol-claim-hash", "/exports//a b/"),
        server=CONNECTED[0],
        port=CONNECTED[1],
        read_only=read_only,
        options=["vers=4.2,hard"],
    )
    with subprocess.Popen(argv, env={}, stderr=subprocess.PIPE, text=True) as program:
        try:
            yield program
        finally:
            program.kill()


def until_mounted(place: str) -> Mount:
    with open(mountinfo.SELF) as table:
        changed = select.poll()
        changed.register(table, select.POLLPRI)
        while (found := mountinfo.read().at(place)) is None:
            assert changed.poll(20_000), "it is not mounted"
    return found


def until_it_listens(program: subprocess.Popen[str]) -> None:
    """To SIGTERM: it holds the file system then, and waits. Nothing tells but the kernel's list of what it catches."""
    deadline = time.monotonic() + 20
    while not _catches(program.pid, signal.SIGTERM):
        assert time.monotonic() < deadline, "it does not listen"
        time.sleep(0.005)


def _catches(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


def run(*words: str) -> tuple[int, str]:
    done = subprocess.run(nfs.command(*words), env={}, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stderr


@pytest.mark.root
@without_client
def test_a_kernel_without_nfs_is_told_by_its_own_error(place: str) -> None:
    os.mkdir(place)
    with started(place) as program:
        assert program.wait(timeout=30) == 1
        assert program.stderr is not None
        assert program.stderr.read().startswith("ENODEV: mount(source='dynvol-claim-hash:/exports/a b'")


@pytest.mark.root
def test_it_mounts_under_our_name_and_unmounts_when_it_is_asked_to_end(place: str, played: None) -> None:
    os.mkdir(place)
    with started(place) as program:
        found = until_mounted(place)
        assert (found.name, found.source) == ("dynvol-claim-hash", "dynvol-claim-hash:/exports/a b")
        assert {"rw", "nosuid", "nodev"} <= set(found.options.split(","))
        until_it_listens(program)
        program.send_signal(signal.SIGTERM)
        assert program.wait(timeout=30) == 0
    assert mountinfo.read().at(place) is None


@pytest.mark.root
def test_what_is_read_only_is_mounted_so(place: str, played: None) -> None:
    os.mkdir(place)
    with started(place, read_only=True):
        assert until_mounted(place).read_only


@pytest.mark.root
def test_a_mount_of_another_directory_than_the_one_that_was_named_is_refused(place: str, played: None) -> None:
    """As when the server has a symbolic link there. ramfs follows none."""
    os.mkdir(place)
    syscalls.mount(place, source="dynvol-claim-hash:/exports/other", fstype="ramfs")
    with pytest.raises(OSError, match="it leads to /exports/other"):
        nfs._refuse_detours(place, nfs.source("dynvol-claim-hash", "/exports/home"))
    assert mountinfo.read().at(place) is None


@pytest.mark.root
def test_it_ends_when_another_unmounts(place: str, played: None) -> None:
    os.mkdir(place)
    with started(place) as program:
        until_mounted(place)
        until_it_listens(program)
        assert run("release", place, "gently") == (0, "")
        assert program.wait(timeout=30) == 0


@pytest.mark.root
def test_a_mount_outlives_a_killed_program_and_is_taken_away_like_what_a_dead_daemon_left(
    playground: str, place: str, played: None
) -> None:
    shown = f"{playground}/shown"
    os.mkdir(place)
    os.mkdir(shown)
    with started(place) as program:
        until_mounted(place)
        propagation.attach_bind(place, shown, propagation=(propagation.Propagation.PRIVATE,), read_only=False)
        Path(shown, "file").write_text("still there")
        program.kill()
        program.wait()
    assert Path(shown, "file").read_text() == "still there"
    assert [cleared.path for cleared in fuse.clear_dead(playground).cleared] == sorted([place, shown], reverse=True)
    assert not os.listdir(shown)


def test_ours_are_named_alike_everywhere() -> None:
    assert nfs.OURS == SOURCE_PREFIX


@pytest.mark.root
def test_what_kubernetes_mounts_by_nfs_is_not_cleared(playground: str, played: None) -> None:
    syscalls.mount(playground, source="files.example.com:/exports", fstype="ramfs")
    assert fuse.clear_dead(playground).cleared == ()
    assert mountinfo.read().at(playground) is not None


@pytest.mark.root
def test_what_hangs_is_taken_away_by_force_and_who_waits_is_told(place: str) -> None:
    os.mkdir(place)
    daemon = start_child(lambda ready: _daemon(place, ready))
    os.kill(daemon, signal.SIGSTOP)
    os.waitpid(daemon, os.WUNTRACED)
    with subprocess.Popen(["cat", f"{place}/hello"], env={}, stderr=subprocess.PIPE, text=True) as reader:
        with at_most(20):
            assert nfs.take_away(place, patience=4)
        assert reader.wait(timeout=20) == 1, "whoever waited is told"
    assert mountinfo.read().at(place) is None
    os.kill(daemon, signal.SIGKILL)
    os.waitpid(daemon, 0)


def _daemon(place: str, ready: Callable[[], None]) -> None:
    device = mount(place, source="dynvol-claim-hash")
    ready()
    serve(device)


def reach(*, answer: bytes) -> tuple[int, str]:
    """What is said of a server that gives this answer to whatever it is sent first."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as elsewhere:
        asked = elsewhere.submit(run, "reach", "127.0.0.1", str(server.getsockname()[1]))
        connection, _ = server.accept()
        with connection:
            connection.recv(1024)
            connection.sendall(answer)
        return asked.result()


def test_a_server_that_answers_is_reached() -> None:
    accepted = b"\x80\0\0\x18" + b"\0\0\0\1" * 2 + bytes(16)
    assert reach(answer=accepted) == (0, "")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_one_of_another_kind_is_told_by_its_error(answer: bytes) -> None:
    assert reach(answer=answer) == (1, "EPROTO: Protocol error\n")


def test_one_that_does_not_is_told_by_its_error() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        code, said = run("reach", "127.0.0.1", str(closed.getsockname()[1]))
    assert code == 1
    assert said.startswith("ECONNREFUSED: ")


def test_a_name_that_does_not_resolve_is_told_apart() -> None:
    code, said = run("reach", "no-such-host.invalid", "2049")
    assert code == 1
    assert said.startswith("EAI: ")
