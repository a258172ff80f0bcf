"""S3 servers for tests and for trying things out: real ones, on loopback, with their data in a folder.

    async with S3Server(folder / "s3", kind=Kind.RCLONE, access_key="a", secret_key="s") as s3:
        await s3.make_bucket("data")

Two kinds, since neither does all: rclone checks signatures, and so tells good credentials from bad; moto knows more of
the API (ranges, multipart, bucket regions), and takes any credentials. A server may also be started to stay (`start`),
and is then ended with the cluster whose state folder it lies in.
"""

from __future__ import annotations

import asyncio
import http.client
import shutil
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from e2e.cluster.lifecycle import ClusterError, free_port
from e2e.cluster.processes import Process, spawn

START_LIMIT = 30.0


class Kind(StrEnum):
    RCLONE = "rclone"
    MOTO = "moto"


class S3Server:
    """One server process. `endpoint` is what clients are given; the calls below use the server's own good credentials."""

    def __init__(
        self,
        folder: Path,
        *,
        kind: Kind = Kind.RCLONE,
        access_key: str = "local-access-key",
        secret_key: str = "local-secret-key",
        more_keys: Mapping[str, str] = {},
        for_anyone: bool = False,
        port: int = 0,
    ) -> None:
        """Of rclone only: `more_keys` are secret keys by access key, of others who may do the same; `for_anyone`: none is asked
        for."""
        self.kind = kind
        self.access_key = access_key
        self.secret_key = secret_key
        self._keys = {} if for_anyone else {**more_keys, access_key: secret_key}
        self.port = port or free_port()
        self._folder = folder
        self._record = folder.parent / "run" / f"s3-{folder.name}.json"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> Process | None:
        return Process.recorded(self._record)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.shield(self.stop())

    async def start(self) -> None:
        """Start the server and wait until it answers. Repeated after `stop`, it serves the same data (rclone only)."""
        for folder in (self._folder, self._record.parent):
            folder.mkdir(parents=True, exist_ok=True)
        process = spawn(self._command(), log=self._record.with_suffix(".log"))
        process.record(self._record)
        try:
            async with asyncio.timeout(START_LIMIT):
                while not await asyncio.to_thread(_answers, self.port):
                    if not process.alive:
                        raise ClusterError(f"the S3 server ended: {self._record.with_suffix('.log').read_text()[-500:]}")
                    await asyncio.sleep(0.05)
        except BaseException:
            await asyncio.shield(process.end(grace=0))
            raise

    async def stop(self, *, hard: bool = False) -> None:
        """End the server; its data stays in the folder."""
        if process := self.process:
            await process.end(grace=0 if hard else 3)
            self._record.unlink()

    def remove_data(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _command(self) -> list[str]:
        if self.kind is Kind.MOTO:
            return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        # Not 0s, with which it spins on the clock for ever once it has served something.
        return [
            *(_rclone(), "serve", "s3", str(self._folder)),
            *("--addr", f"127.0.0.1:{self.port}"),
            *(argument for pair in self._keys.items() for argument in ("--auth-key", ",".join(pair))),
            *("--config", "/dev/null", "--dir-cache-time", "1s", "--vfs-cache-mode", "off"),
        ]

    # Objects

    async def make_bucket(self, bucket: str) -> None:
        await self._call("create_bucket", Bucket=bucket)

    async def put(self, bucket: str, key: str, body: bytes) -> None:
        await self._call("put_object", Bucket=bucket, Key=key, Body=body)

    async def get(self, bucket: str, key: str) -> bytes:
        answer = await self._call("get_object", Bucket=bucket, Key=key)
        body: bytes = await asyncio.to_thread(answer["Body"].read)
        return body

    async def delete(self, bucket: str, key: str) -> None:
        await self._call("delete_object", Bucket=bucket, Key=key)

    async def keys(self, bucket: str, *, prefix: str = "") -> list[str]:
        """The first thousand keys of a bucket, in order."""
        answer = await self._call("list_objects_v2", Bucket=bucket, Prefix=prefix)
        return sorted(entry["Key"] for entry in answer.get("Contents") or ())

    async def _call(self, operation: str, **arguments: Any) -> Any:
        return await asyncio.to_thread(lambda: getattr(self._client(), operation)(**arguments))

    def _client(self) -> Any:
        """A client of its own for each call: boto3's are not for many threads. Imported here, for it takes 300 ms."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 2}, proxies={}),
        )


def _rclone() -> str:
    """The rclone that the project's environment brings; Debian's is too old to serve S3."""
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if beside.exists() else "rclone"


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
        return True
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
