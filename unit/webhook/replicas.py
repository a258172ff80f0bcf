"""What replicas of the webhook share, in memory, with the API server's manners: versions, and trust that takes writing."""

from __future__ import annotations

import asyncio
import datetime
from dataclasses import dataclass, field

from dynvol.webhook.certificates import Certificate, authorities_in, merged
from dynvol.webhook.renewal import Lost, Stored, utc_now


@dataclass
class SharedSecretInMemory:
    stored: Stored | None = None
    writes: int = 0

    async def read(self) -> Stored | None:
        await asyncio.sleep(0)
        return self.stored

    async def create(self, certificate: Certificate) -> None:
        await asyncio.sleep(0)
        if self.stored is not None:
            raise Lost
        self._write(certificate)

    async def replace(self, certificate: Certificate, *, version: str) -> None:
        await asyncio.sleep(0)
        if self.stored is None or self.stored.version != version:
            raise Lost
        self._write(certificate)

    def _write(self, certificate: Certificate) -> None:
        self.writes += 1
        self.stored = Stored(certificate, version=str(self.writes))


@dataclass
class TrustInMemory:
    """What an API server trusts. It knows what it was told, not what it should have been told."""

    bundle: bytes = b""
    exists: bool = True
    history: list[bytes] = field(default_factory=list)

    async def trust(self, authorities: bytes) -> bool:
        await asyncio.sleep(0)
        if not self.exists:
            return False
        if not authorities_in(authorities) <= authorities_in(self.bundle):
            self.bundle = merged(authorities, self.bundle, now=utc_now())
            self.history.append(authorities)
        return True


class Clock:
    """The wall clock, as far as certificates are concerned. Begins now, so that OpenSSL finds them valid."""

    def __init__(self) -> None:
        self._now = datetime.datetime.now(datetime.UTC)

    def __call__(self) -> datetime.datetime:
        return self._now

    def pass_days(self, days: float) -> None:
        self._now += datetime.timedelta(days=days)
