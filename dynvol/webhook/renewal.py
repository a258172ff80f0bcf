"""Keeps replicas of the webhook on one certificate, and the API server trusting it, without a restart and without a leader.

The Secret is where replicas agree: whoever is first to create or to replace it wins, the others read what it wrote. What they read
they first make known (the bundle goes into both webhook configurations), then serve. Since a bundle holds the authorities before
it too, no order of replicas, polls and crashes leaves a served certificate that is not believed.
"""

from __future__ import annotations

import asyncio
import datetime
import random
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from dynvol.observe import logs

from .certificates import Certificate, Unusable, issue, server_context, take_up

log = logs.get(__name__)

POLL: Final = 60.0
"""Seconds between looks at the Secret and at the configurations; also the longest that a mended configuration takes."""
RETRY: Final = 2.0
"""Seconds between looks while something is amiss: no configuration to write to yet, or no API server."""
SETTLE: Final = 10.0
"""Seconds between making a new authority known and serving its certificate, for API servers' watches to bring it."""


class Lost(Exception):
    """Someone else was quicker to write the Secret."""


@dataclass(frozen=True, slots=True)
class Stored:
    certificate: Certificate | None
    """None if the Secret does not hold three PEM files that make sense."""
    version: str
    managed: bool = True
    """Whether it is ours to renew; not where its owner is cert-manager or a person."""


class CertificateSecret(Protocol):
    async def read(self) -> Stored | None:
        """None if there is none."""
        ...

    async def create(self, certificate: Certificate) -> None:
        """Raises `Lost` if it is there."""
        ...

    async def replace(self, certificate: Certificate, *, version: str) -> None:
        """Raises `Lost` if it is no longer at `version`."""
        ...


class TrustStore(Protocol):
    async def trust(self, authorities: bytes) -> bool:
        """Lets the API server trust these authorities; False if it could not be told everything yet."""
        ...


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class CertificateKeeper:
    """`context` is what the server serves with; it has a certificate once `prepare` has returned."""

    def __init__(
        self,
        secret: CertificateSecret,
        trust: TrustStore,
        *,
        hosts: Sequence[str],
        unavailable: tuple[type[Exception], ...] = (),
        now: Callable[[], datetime.datetime] = utc_now,
    ) -> None:
        """`unavailable` are the errors by which `secret` and `trust` say that the API server cannot be asked at present."""
        self.context: Final[ssl.SSLContext] = server_context()
        self._secret = secret
        self._trust = trust
        self._hosts = tuple(hosts)
        self._unavailable = unavailable
        self._now = now
        self._served: Certificate | None = None

    @property
    def served(self) -> Certificate | None:
        return self._served

    async def prepare(self) -> None:
        """Returns when there is a certificate to serve with. Tries for as long as it takes."""
        while self._served is None:
            if not await self._settled():
                await asyncio.sleep(RETRY)

    async def run(self) -> NoReturn:
        """Renews, takes up what other replicas renewed, and mends the configurations, for ever."""
        while True:
            settled = await self._settled()
            await asyncio.sleep(POLL * random.uniform(0.8, 1.2) if settled else RETRY)

    async def _settled(self) -> bool:
        try:
            return await self.step()
        except self._unavailable as error:
            log.warning("cannot look after the certificate", error=str(error))
            return False

    async def step(self) -> bool:
        """1. Agree on a certificate. 2. Make its authority known. 3. Serve it. True if all of that is so."""
        certificate = await self._agreed()
        if certificate is None:
            return False
        known = await self._trust.trust(certificate.authorities)
        if certificate == self._served:
            return known
        if self._served is not None:
            if not known:
                return False
            await asyncio.sleep(SETTLE)
        take_up(self.context, certificate)
        self._served = certificate
        log.info("serving a certificate", certificate=repr(certificate))
        return known

    async def _agreed(self) -> Certificate | None:
        """What the Secret holds, after making or renewing it if that is due. None: look again."""
        stored = await self._secret.read()
        if stored is None or not self._is_good(stored):
            with suppress(Lost):
                await self._renew(stored)
            stored = await self._secret.read()
        return stored.certificate if stored is not None and self._is_good(stored) else None

    async def _renew(self, stored: Stored | None) -> None:
        """Raises `Lost` if another replica was quicker; then what it wrote is as good."""
        if stored is None:
            await self._secret.create(self._next(self._served))
        elif stored.managed:
            usable = stored.certificate if stored.certificate and not _fault(stored.certificate) else self._served
            await self._secret.replace(self._next(usable), version=stored.version)
        else:
            log.error("the certificate's Secret cannot be used, and is not dynvol's to mend", fault=_fault(stored.certificate))

    def _is_good(self, stored: Stored) -> bool:
        """Usable, and, where it is ours, with time left and for the names by which we are called."""
        certificate = stored.certificate
        if certificate is None or _fault(certificate):
            return False
        return not stored.managed or (certificate.serves(self._hosts) and not certificate.due(now=self._now()))

    def _next(self, before: Certificate | None) -> Certificate:
        return issue(self._hosts, now=self._now(), before=before.authorities if before else b"")


def _fault(certificate: Certificate | None) -> str:
    """What is wrong with what a Secret holds; empty if it can be served."""
    if certificate is None:
        return "tls.crt, tls.key or ca.crt is missing"
    try:
        certificate.check()
    except Unusable as error:
        return str(error)
    return ""
