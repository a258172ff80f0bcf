"""The Secrets that classes name, read seldom and kept briefly.

Secrets are not watched: that would need the right to list them all. Instead every user asks here, and one read serves all
workloads of a class on this node for a while. A problem is kept no longer than a moment, so that mending it shows soon.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from dynvol.api import names
from dynvol.api.core import Secret
from dynvol.api.providerclass import StorageProviderClass
from dynvol.api.resources import SECRETS
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import Forbidden, NotFound

from .status import Problem, missing_credentials

FRESH: Final = 20.0
"""Seconds for which a Secret that was found good is not read again."""
DOUBTFUL: Final = 2.0
"""The same, for one that was not."""


@dataclass(frozen=True, slots=True)
class Found:
    """`secret` is there exactly if there is no `problem`."""

    secret: Secret | None
    problem: Problem | None
    at: float

    def lasts(self, now: float) -> bool:
        return now - self.at < (DOUBTFUL if self.problem else FRESH)


class Credentials:
    """Ask `of` a class. Errors of the API other than "there is none" and "may not be read" are raised."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._found: dict[tuple[str, str], Found] = {}

    async def of(self, provider_class: StorageProviderClass) -> Found:
        parameters = provider_class.spec.parameters
        place = parameters.get(names.SECRET_NAMESPACE_PARAMETER, ""), parameters.get(names.SECRET_NAME_PARAMETER, "")
        now = asyncio.get_running_loop().time()
        self._found = {key: found for key, found in self._found.items() if found.lasts(now)}
        if (known := self._found.get(place)) is None:
            known = self._found[place] = await self._look(provider_class, *place, now)
        return known

    async def _look(self, provider_class: StorageProviderClass, namespace: str, name: str, now: float) -> Found:
        secret: Secret | None = None
        if namespace and name:
            try:
                secret = await self._client.get(SECRETS, name, namespace=namespace)
            except NotFound:
                secret = None
            except Forbidden as error:
                return Found(None, Problem("SecretForbidden", f"Secret {namespace}/{name} may not be read: {error}"), now)
        problem = missing_credentials(provider_class, secret.data if secret else None)
        return Found(None if problem else secret, problem, now)
