"""The socket's file, and what leaving does to connections. The server is the real one, the peers are sockets."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpclib.client import Channel
from hyperframe.frame import Frame, GoAwayFrame

from dynvol.csi.errors import CODES
from dynvol.csi.identity import IdentityService
from dynvol.csi.proto.csi import v1 as csi
from dynvol.rpc.errors import SocketInUse, SocketUnusable
from dynvol.rpc.listener import Access, SocketFile, UnixServer


def _server(path: Path, *, look_after: float = 10.0) -> UnixServer:
    return UnixServer(path, [IdentityService(version="1", ready=lambda: True)], codes=CODES, drain=0.5, look_after=look_after)


async def _answers(path: Path) -> bool:
    async with Channel(path=str(path)) as channel:
        return bool((await csi.IdentityStub(channel).probe()).ready)


async def test_the_file_is_there_while_someone_listens_and_is_closed_to_others(folder: Path) -> None:
    path = folder / "plugins" / "x" / "csi.sock"
    async with _server(path):
        assert stat.filemode(path.lstat().st_mode) == "srw-------"
        assert [found.name for found in path.parent.iterdir()] == ["csi.sock"]
        assert await _answers(path)
    assert list(path.parent.iterdir()) == []


def test_the_file_was_never_more_open_whatever_the_umask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    rename = Path.rename

    def watched(self: Path, to: Path) -> Path:
        modes.append(stat.filemode(self.lstat().st_mode))
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", watched)
    before = os.umask(0)
    try:
        bound = SocketFile.bind(folder / "csi.sock")
    finally:
        os.umask(before)
    bound.socket.close()
    bound.remove()
    assert modes == ["srw-------"]


def test_mode_and_owner_are_those_that_were_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    chown = os.chown

    def watched(path: Path, uid: int, gid: int, *, follow_symlinks: bool) -> None:
        modes.append(stat.filemode(path.lstat().st_mode))
        chown(path, uid, gid, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "chown", watched)
    bound = SocketFile.bind(folder / "own.sock", access=Access(mode=0o660, uid=1234, gid=4321))
    status = bound.path.lstat()
    bound.socket.close()
    bound.remove()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o660, 1234, 4321)
    assert modes == ["srw-------"], "it was open to a group that is not meant"


async def test_what_a_killed_process_left_is_replaced(folder: Path) -> None:
    path = folder / "csi.sock"
    async with _killed_after_binding(path):
        assert path.is_socket()
    assert path.is_socket()
    async with _server(path):
        assert await _answers(path)
    assert not path.exists()


async def test_what_a_process_left_that_was_killed_between_binding_and_naming_does_not_stand_in_the_way(folder: Path) -> None:
    path, hidden = folder / "csi.sock", folder / ".csi.soc"
    with socket.socket(socket.AF_UNIX) as leftover:
        leftover.bind(str(hidden))
    async with _server(path):
        assert await _answers(path)
        assert not hidden.exists()


async def test_a_living_processs_place_is_not_taken(folder: Path) -> None:
    path = folder / "csi.sock"
    async with _server(path):
        with pytest.raises(SocketInUse, match="second dynvol"):
            async with _server(path):
                pass
        assert await _answers(path)


async def test_a_process_that_listens_and_accepts_no_one_is_alive(folder: Path) -> None:
    path = folder / "csi.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        busy.bind(str(path))
        busy.listen(0)
        first.connect(str(path))
        second.setblocking(False)
        with pytest.raises(BlockingIOError):
            second.connect(str(path))
        with pytest.raises(SocketInUse):
            async with _server(path):
                pass
    path.unlink()


async def test_something_else_at_the_path_is_left_alone(folder: Path) -> None:
    path = folder / "csi.sock"
    path.write_text("precious")
    with pytest.raises(SocketUnusable, match="not a socket"):
        async with _server(path):
            pass
    assert path.read_text() == "precious"


async def test_a_path_that_no_one_could_connect_to_is_refused_in_words(folder: Path) -> None:
    longest = folder / ("s" * (107 - len(str(folder)) - 1))
    async with _server(longest):
        assert await _answers(longest)
    with pytest.raises(SocketUnusable, match="107 bytes"):
        async with _server(folder / (longest.name + "s")):
            pass


async def test_a_file_that_another_process_put_in_our_place_is_not_removed(folder: Path) -> None:
    path = folder / "csi.sock"
    async with _server(path) as server:
        assert await server.present()
        path.unlink()
        assert not await server.present()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
        assert not await server.present()
    assert path.is_socket()
    path.unlink()


async def test_a_file_that_was_taken_away_is_put_back(folder: Path) -> None:
    path = folder / "csi.sock"
    async with _server(path, look_after=0.01) as server, Channel(path=str(path)) as channel:
        await csi.IdentityStub(channel).probe()
        for _ in range(2):
            path.unlink()
            async with asyncio.timeout(5):
                while not await server.present():
                    pass
            assert await _answers(path)
        assert (await csi.IdentityStub(channel).probe()).ready
    assert not path.exists()


async def test_a_file_that_is_anothers_is_not_fought_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = folder / "csi.sock"
    with socket.socket(socket.AF_UNIX) as other:
        async with _server(path, look_after=0.01) as server:
            path.unlink()
            other.bind(str(path))
            other.listen()
            theirs = path.lstat().st_ino
            async with asyncio.timeout(5):
                while "not ours any more" not in caplog.text:
                    assert not await server.present()
        assert path.lstat().st_ino == theirs
    path.unlink()


async def test_clients_are_told_to_go_elsewhere_before_their_connection_is_closed(folder: Path) -> None:
    path = folder / "csi.sock"
    async with _server(path):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
        said = await reader.readexactly(9)
    said += await reader.read()
    assert isinstance(_frames(said)[-1], GoAwayFrame)
    writer.close()
    await writer.wait_closed()


async def test_a_peer_that_reads_nothing_does_not_hold_the_server_up(folder: Path) -> None:
    path = folder / "csi.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        async with _server(path):
            await asyncio.to_thread(silent.connect, str(path))
            left = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - left < 5


async def test_leaving_leaves_no_task_behind(folder: Path) -> None:
    async with _server(folder / "csi.sock") as server:
        await _answers(server.path)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@asynccontextmanager
async def _killed_after_binding(path: Path) -> AsyncIterator[None]:
    """A process that listens at `path` like the server does, and is killed before the context is entered."""
    script = "import sys; from pathlib import Path; from dynvol.rpc.listener import SocketFile\n"
    script += "bound = SocketFile.bind(Path(sys.argv[1])); print('bound', flush=True); sys.stdin.read()"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(path), stdin=pipe, stdout=pipe, env={})
    assert process.stdout is not None
    assert await process.stdout.readline() == b"bound\n"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    yield


def _frames(data: bytes) -> list[Frame]:
    frames = []
    while len(data) >= 9:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        frames.append(frame)
        data = data[9 + length :]
    return frames
