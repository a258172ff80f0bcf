"""The Secrets that classes and claims name, read seldom and kept briefly.

Secrets are not watched: that would need the right to list them all. The leader looks at those of classes, and what it says in a
class's status lets all others read them when they changed and not else. Every user asks here, and one read serves all workloads
of a class on this node for a while. A problem is kept no longer than a moment, so that mending it shows soon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from dynvol.api.core import Secret
from dynvol.api.mounts import WantedMount
from dynvol.api.providerclass import StorageProviderClass
from dynvol.api.resources import SECRETS
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import Forbidden, NotFound
from dynvol.mount import providers

from .mountpodspec import credentials_digest, read
from .status import Problem, missing_credentials, missing_in_own_secret
from .turns import Turns

FRESH: Final = 20.0
"""Seconds for which a Secret that was found good is not read again."""
DOUBTFUL: Final = 2.0
"""The same, for one that was not."""
_MOST: Final = 512 * 1024
"""Bytes that one mount pod is given of claims' Secrets: half of what Kubernetes lets a Secret hold."""


@dataclass(frozen=True, slots=True)
class Found:
    """With a `problem`, there is no `secret`. With neither, none is needed."""

    secret: Secret | None
    problem: Problem | None
    at: float

    def lasts(self, now: float, digest: str = "") -> bool:
        """`digest` is what the leader has seen, if that is known."""
        doubtful = self.problem is not None or (digest and digest != credentials_digest(self.secret))
        return now - self.at < (DOUBTFUL if doubtful else FRESH)


@dataclass(frozen=True, slots=True)
class OwnSecrets:
    """Those that the claims of one workload name, by name: each is in one of the two."""

    found: Mapping[str, Secret]
    problems: Mapping[str, Problem]

    def usable(self, wanted: Iterable[WantedMount], *, before: Iterable[WantedMount]) -> tuple[WantedMount, ...]:
        """`wanted` without what would begin with a Secret that cannot be had. What has begun goes on with what it has."""
        begun = {(mount.key, mount.spec_hash) for mount in before}
        return tuple(m for m in wanted if m.credentials not in self.problems or (m.key, m.spec_hash) in begun)


class Credentials:
    """Ask `of` a class, or for its claims' `own`. Errors of the API other than "there is none" and "may not be read" are raised."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._found: dict[str, Found] = {}
        self._turns = Turns()

    async def of(self, provider_class: StorageProviderClass) -> Found:
        def judge(secret: Secret | None) -> Problem | None:
            return missing_credentials(provider_class, secret.data if secret is not None else None)

        asker, digest = f"class {provider_class.metadata.name}", provider_class.credentials_digest
        return await self._read(*provider_class.spec.secret, judge, asker=asker, digest=digest)

    async def own(self, names: Iterable[str], *, namespace: str, provider_class: StorageProviderClass | None) -> OwnSecrets:
        """The Secrets of these names, as far as there is room for them; the first have it."""
        found: dict[str, Secret] = {}
        problems: dict[str, Problem] = {}
        room = _MOST
        for name in dict.fromkeys(names):
            if provider_class is None or not name:
                continue
            one = await self._own(name, namespace=namespace, provider_class=provider_class)
            size = _size(one.secret, provider_class) if one.secret is not None else 0
            if one.secret is not None and size <= room:
                found[name], room = one.secret, room - size
            else:
                problems[name] = one.problem or Problem("SecretTooLarge", _TOO_LARGE.format(place=f"{namespace}/{name}"))
        return OwnSecrets(found, problems)

    async def _own(self, name: str, *, namespace: str, provider_class: StorageProviderClass) -> Found:
        def judge(secret: Secret | None) -> Problem | None:
            return missing_in_own_secret(provider_class, secret, place=f"{namespace}/{name}")

        return await self._read(namespace, name, judge, asker=f"claims of {provider_class.metadata.name}")

    async def _read(
        self, namespace: str, name: str, judge: Callable[[Secret | None], Problem | None], *, asker: str, digest: str = ""
    ) -> Found:
        place = f"{asker}: {namespace}/{name}"
        # Workloads of one class ask at the same moment, and what they know runs out at the same moment.
        async with self._turns.of(place):
            now = asyncio.get_running_loop().time()
            self._found = {key: found for key, found in self._found.items() if found.lasts(now)}
            known = self._found.get(place)
            if known is None or not known.lasts(now, digest):
                known = self._found[place] = await self._look(namespace, name, judge, now)
            return known

    async def _look(self, namespace: str, name: str, judge: Callable[[Secret | None], Problem | None], now: float) -> Found:
        secret: Secret | None = None
        if namespace and name:
            try:
                secret = await self._client.get(SECRETS, name, namespace=namespace)
            except NotFound:
                secret = None
            except Forbidden as error:
                return Found(None, Problem("SecretForbidden", f"Secret {namespace}/{name} may not be read: {error}"), now)
        problem = judge(secret)
        return Found(None if problem else secret, problem, now)


_TOO_LARGE: Final = "Secret {place}, which the claim names, does not fit into a mount pod's copy beside the others; make it smaller"


def _size(secret: Secret, provider_class: StorageProviderClass) -> int:
    provider = providers.provider(provider_class.spec.provider)
    return sum(len(key) + len(value) for key, value in read(secret, provider).items())
