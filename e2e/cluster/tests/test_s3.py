"""The S3 servers that tests rest on are what they are taken for."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from e2e.cluster.s3 import Kind, S3Server


@pytest.mark.parametrize("kind", list(Kind))
async def test_objects_are_stored_listed_read_and_deleted(tmp_path: Path, kind: Kind) -> None:
    async with S3Server(tmp_path / "data", kind=kind) as server:
        await server.make_bucket("bucket")
        await server.put("bucket", "folder/key", b"content")
        assert await server.keys("bucket") == ["folder/key"]
        assert await server.get("bucket", "folder/key") == b"content"
        await server.delete("bucket", "folder/key")
        assert await server.keys("bucket") == []


async def test_rclone_refuses_a_wrong_secret(tmp_path: Path) -> None:
    async with S3Server(tmp_path / "data") as server:
        await server.make_bucket("bucket")
        stranger = S3Server(tmp_path / "data", secret_key="wrong", port=server.port)
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            await stranger.keys("bucket")


async def test_rclone_keeps_its_objects_over_a_restart(tmp_path: Path) -> None:
    server = S3Server(tmp_path / "data")
    async with server:
        await server.make_bucket("bucket")
        await server.put("bucket", "key", b"1")
        await server.stop(hard=True)
        await server.start()
        assert await server.get("bucket", "key") == b"1"
    assert server.process is None
