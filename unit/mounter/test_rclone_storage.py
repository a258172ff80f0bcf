"""The provider rclone with real servers: WebDAV, SFTP, S3."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from dynvol.api.mounts import WantedMount

from .authority import Authority
from .stagehand import Hand, engine, in_thread, prepare, wanted_of
from .storage import ACCESS_KEY, SECRET_KEY, free_port, obscured, serving, serving_files

Story = Callable[[Hand], Awaitable[None]]
PASSWORD = "webdav-password"


def play(playground: str, story: Story, *, secret: Mapping[str, str] | None = None) -> None:
    async def scene() -> None:
        keys = {PASSWORD: obscured(SECRET_KEY), "s3-key": SECRET_KEY, "s3-id": ACCESS_KEY} if secret is None else secret
        async with engine(prepare(playground, secret=dict(keys))) as hand:
            await story(hand)

    asyncio.run(scene())


def webdav(port: int, *, scheme: str = "http", password: str = PASSWORD, path: str = "") -> WantedMount:
    options = {"parameter.url": f"{scheme}://127.0.0.1:{port}", "parameter.vendor": "other", "parameter.user": ACCESS_KEY}
    return wanted_of("rclone", {"type": "webdav", "path": path, **options, "secret.pass": password})


def sftp(port: int) -> WantedMount:
    options = {"parameter.host": "127.0.0.1", "parameter.port": str(port), "parameter.user": ACCESS_KEY}
    return wanted_of("rclone", {"type": "sftp", **options, "secret.pass": PASSWORD})


def s3(port: int) -> WantedMount:
    options = {"parameter.provider": "Other", "parameter.endpoint": f"http://127.0.0.1:{port}"}
    keys = {"secret.access_key_id": "s3-id", "secret.secret_access_key": "s3-key"}
    return wanted_of("rclone", {"type": "s3", "path": "bucket-a/below", **options, **keys})


def files(playground: str) -> Path:
    directory = Path(playground, "files")
    directory.mkdir()
    (directory / "hello").write_text("hello\n")
    return directory


async def reads_and_writes(hand: Hand, mount: WantedMount, directory: Path) -> None:
    await hand.mounted(mount)
    assert await in_thread((hand.shown() / "hello").read_text) == "hello\n"
    await in_thread(lambda: (hand.shown() / "made").write_text("made here\n"))
    hand.engine.set_wanted([])
    await hand.until(lambda found: not found)
    assert (directory / "made").read_text() == "made here\n", "an unmount loses nothing that was closed"


@pytest.mark.root
@pytest.mark.parametrize(("protocol", "mount"), [("webdav", webdav), ("sftp", sftp)])
def test_files_of_a_server_are_read_and_written(playground: str, protocol: str, mount: Callable[[int], WantedMount]) -> None:
    directory = files(playground)
    with serving_files(protocol, directory) as port:
        play(playground, lambda hand: reads_and_writes(hand, mount(port), directory))


@pytest.mark.root
def test_a_bucket_is_read_and_written(playground: str) -> None:
    with serving(Path(playground, "s3")) as storage:
        below = storage.make_bucket("bucket-a") / "below"
        below.mkdir()
        (below / "hello").write_text("hello\n")
        play(playground, lambda hand: reads_and_writes(hand, s3(storage.port), below))


@pytest.mark.root
def test_an_authority_of_the_secret_is_trusted_and_another_is_not(playground: str) -> None:
    authority, directory = Authority(Path(playground, "ca")), files(playground)
    secret = {PASSWORD: obscured(SECRET_KEY)}

    async def distrusts(hand: Hand) -> None:
        assert (await hand.failed(webdav(port, scheme="https"))).reason == "CertificateError"

    with serving_files("webdav", directory, authority=authority) as port:
        play(playground, distrusts, secret=secret)
        trusting = {**secret, "ca.crt": authority.ca.read_text()}
        play(playground, lambda hand: reads_and_writes(hand, webdav(port, scheme="https"), directory), secret=trusting)


@pytest.mark.root
@pytest.mark.parametrize(
    ("password", "path", "reason"),
    [
        ("other", "", "AccessDenied"),
        ("plain", "", "SecretMalformed"),
        ("nowhere", "", "SecretKeyMissing"),
        (PASSWORD, "no/such", "PathNotFound"),
    ],
)
def test_what_keeps_a_server_from_being_mounted_is_said(playground: str, password: str, path: str, reason: str) -> None:
    async def story(hand: Hand) -> None:
        assert (await hand.failed(webdav(port, password=password, path=path))).reason == reason
        assert not hand.shown().exists()

    secret = {PASSWORD: obscured(SECRET_KEY), "other": obscured("wrong"), "plain": "never-obscured"}
    with serving_files("webdav", files(playground)) as port:
        play(playground, story, secret=secret)


@pytest.mark.root
def test_a_server_that_is_away_is_said(playground: str) -> None:
    async def story(hand: Hand) -> None:
        assert (await hand.failed(webdav(free_port()))).reason == "EndpointUnreachable"

    play(playground, story)
