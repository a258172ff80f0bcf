"""How often the API is written to for one claim on one pod, from its creation until it is Ready, events apart.

Counted afterwards, by what watches of claims and mount pods tell of that time: so it does not matter who wrote, and what changed
nothing does not count, since no server stores that. With a mount pod that is there already, nothing else is written to.
"""

from __future__ import annotations

import time

from dynvol.api.claim import DynamicVolumeClaim
from dynvol.api.core import Pod
from dynvol.api.resources import CLAIMS, PODS
from dynvol.runtime.source import Modified, ObjectT, Source
from e2e.grounds.installation import SYSTEM

from .claims import NAMESPACE, Bed, until
from .figure import Figure, Series

AFTERWARDS = 1.5
"""Seconds in which what follows has come too."""
MOST = 4


def measure(bed: Bed, *, rounds: int) -> list[Figure]:
    """The mount pod serves another claim all the while."""
    bed.claim("stays")
    bed.sight.readable(bed.inside("stays"))
    until(lambda: _is_ready(bed.api(bed.client.get(CLAIMS, "stays", namespace=NAMESPACE))))
    counted = [_come(bed, f"counted-{number}") for number in range(rounds)]
    bed.unclaim("stays")
    bed.until_gone("stays")
    to_ready, in_all = (tuple(float(counts[which]) for counts in counted) for which in (0, 1))
    name = f"API writes for a warm claim until Ready, {bed.mounter}"
    until_ready, later = Series("until Ready", to_ready), Series("in all", in_all)
    return [Figure(name, "n", until_ready, later, f"≤ {MOST}", lambda figure: figure.measured.median <= MOST)]


def _come(bed: Bed, name: str) -> tuple[int, int]:
    """Writes until Ready, and in all."""
    time.sleep(AFTERWARDS)
    claims = bed.client.source(CLAIMS, namespace=NAMESPACE)
    pods = bed.client.source(PODS, namespace=SYSTEM, field_selector=f"metadata.name={bed.workload.mount_pod}")
    before = bed.api(claims.list(resource_version="", limit=1)).resource_version
    before_pods = bed.api(pods.list(resource_version="", limit=1)).resource_version
    bed.claim(name)
    until(lambda: _is_ready(bed.api(bed.client.get(CLAIMS, name, namespace=NAMESPACE))))
    time.sleep(AFTERWARDS)
    of_claim = [claim for claim in bed.api(_changes(claims, before)) if claim.metadata.name == name]
    of_pod = bed.api(_changes(pods, before_pods))
    ready = min(_version(claim) for claim in of_claim if _is_ready(claim))
    versions = [*map(_version, of_claim), *map(_version, of_pod)]
    bed.unclaim(name)
    bed.until_gone(name)
    return sum(version <= ready for version in versions), len(versions)


async def _changes(source: Source[ObjectT], since: str) -> list[ObjectT]:
    async with source.watch(resource_version=since, timeout=1.0) as events:
        return [event.object async for event in events if isinstance(event, Modified)]


def _version(changed: DynamicVolumeClaim | Pod) -> int:
    """Of the store: one counter for all objects."""
    return int(changed.metadata.resource_version)


def _is_ready(claim: DynamicVolumeClaim) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in claim.status.conditions)
