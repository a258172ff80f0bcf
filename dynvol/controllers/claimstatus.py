"""The leader's work on claims: totals, conditions, and letting a deleted claim go.

Nodes say what is mounted in which pod; this sums up. It also speaks for nodes that are no more, whose entries would keep a claim
for ever. With no leader, claims are mounted and unmounted all the same; only the sums stand still, and deleted claims wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from dynvol.api import names
from dynvol.api.claim import ClaimStatus, DynamicVolumeClaim
from dynvol.api.core import Node, Pod
from dynvol.api.meta import now
from dynvol.api.providerclass import StorageProviderClass
from dynvol.api.resources import CLAIMS, NODES
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import NotFound
from dynvol.observe import logs
from dynvol.runtime.controller import DONE, Controller, RequeueAfter, Result
from dynvol.runtime.informer import Informer

from .desired import attachments, reaches
from .finalizers import remove_finalizer
from .matching import BY_NAMESPACE, class_decides, pod_decides, reaching
from .namesakes import Superseded, expect_same
from .status import claim_status
from .view import Instruments

log = logs.get(__name__)

FIELD_MANAGER: Final = "dynvol-leader"
FIRST_SUM: Final = 1.0
"""Seconds for which a claim need not say that its mounts are on their way, in or out: a warm mount pod takes less for that."""


@dataclass(frozen=True, slots=True)
class LeaderView:
    """What the leader sees: everything, on all nodes. Of the pods those with a dynamic volume, which the webhook labels."""

    claims: Informer[DynamicVolumeClaim]
    classes: Informer[StorageProviderClass]
    pods: Informer[Pod]
    mount_pods: Informer[Pod]
    nodes: Informer[Node]

    def class_map(self) -> dict[str, StorageProviderClass]:
        return {c.metadata.name: c for c in self.classes.store.values()}


class ClaimStatusController:
    def __init__(self, view: LeaderView, *, client: KubeClient, instruments: Instruments) -> None:
        self._view = view
        self._client = client
        self._brief: dict[str, tuple[str, float]] = {}
        """Claim's key → its uid, and since when, on the loop's clock, all there is to say is that its mounts are on their way, in
        or out. Saves a write, no more."""
        self.controller: Final[Controller] = instruments.controller("claim-status", self.reconcile, workers=4)
        self.controller.watch(view.claims, lambda claim: [claim.metadata.key])
        self.controller.watch(view.pods, self._claims_that_reach, when=pod_decides)
        self.controller.watch(view.classes, lambda _: self._all_claims(), when=class_decides)
        self.controller.watch(view.nodes, self._claims_on_node)

    async def run(self) -> None:
        await self.controller.run()

    def _all_claims(self) -> Iterable[str]:
        return [c.metadata.key for c in self._view.claims.store.values()]

    def _claims_that_reach(self, pod: Pod) -> Iterable[str]:
        return (claim.metadata.key for claim in reaching(self._view.claims.store, pod))

    def _claims_on_node(self, node: Node) -> Iterable[str]:
        """Only a node that goes matters; a heart-beat of one that stays must not wake every claim."""
        if self._view.nodes.store.get(node.metadata.name) is not None:
            return []
        return [
            c.metadata.key for c in self._view.claims.store.values() if any(e.node == node.metadata.name for e in c.status.pods)
        ]

    async def reconcile(self, key: str) -> Result:
        """1. Drop what vanished nodes said. 2. Let a deleted claim go when no pod has it. 3. Sum up."""
        claim = self._view.claims.store.get(key)
        if claim is None:
            self._brief.pop(key, None)
            return DONE
        try:
            if await self._drop_vanished(claim):
                return DONE  # The patch brings the key back.
            if claim.metadata.deleting and not claim.status.pods:
                await remove_finalizer(self._client, CLAIMS, claim, names.CLAIM_FINALIZER)
                return DONE
            return await self._sum_up(claim)
        except (NotFound, Superseded):
            return DONE

    async def _drop_vanished(self, claim: DynamicVolumeClaim) -> bool:
        suspects = {e.node for e in claim.status.pods if self._view.nodes.store.get(e.node) is None}
        vanished = {node for node in suspects if await self._is_gone(node)}
        if not vanished:
            return False
        log.warning("forgetting what vanished nodes said", claim=claim.metadata.key, nodes=sorted(vanished))
        kept = [e for e in claim.status.pods if e.node not in vanished]
        body = {
            "metadata": {"resourceVersion": claim.metadata.resource_version},
            "status": {"pods": msgspec.to_builtins(kept)},
        }
        await self._client.merge_patch(CLAIMS, claim.metadata.name, body, namespace=claim.metadata.namespace, subresource="status")
        return True

    async def _is_gone(self, node: str) -> bool:
        """Asks the API server itself: a cache that has not synced yet would say that every node is gone."""
        with contextlib.suppress(NotFound):
            await self._client.get(NODES, node)
            return False
        return True

    async def _sum_up(self, claim: DynamicVolumeClaim) -> Result:
        pods = self._view.pods.store.by_index(BY_NAMESPACE, claim.metadata.namespace)
        leaving = frozenset(p.metadata.uid for p in pods if p.metadata.deleting)
        classes = self._view.class_map()
        staying = (p for p in pods if not p.metadata.deleting and p.spec.node_name)
        reached = [p for p in staying if reaches(claim, p) and attachments(p, [claim], classes)]
        status = claim_status(claim, pods=reached, leaving=leaving, classes=classes, at=now())
        if status == msgspec.structs.replace(claim.status, pods=()):
            return DONE
        if (patience := self._patience(claim, status)) > 0.0:
            return RequeueAfter(patience)
        written = await self._client.apply(
            CLAIMS,
            claim.metadata.name,
            _body(status),
            field_manager=FIELD_MANAGER,
            namespace=claim.metadata.namespace,
            subresource="status",
        )
        expect_same(claim.metadata, written.metadata)
        return DONE

    def _patience(self, claim: DynamicVolumeClaim, status: ClaimStatus) -> float:
        """Seconds for which the first sum of a claim that is new, or that has been deleted, may wait for a better one."""
        key, uid, at = claim.metadata.key, claim.metadata.uid, asyncio.get_running_loop().time()
        known, since = self._brief.get(key, ("", at))
        going = claim.metadata.deleting and not any(entry.reason for entry in claim.status.pods)
        if not going and (claim.status.observed_generation or not _is_under_way(status)):
            self._brief.pop(key, None)
            return 0.0
        self._brief[key] = uid, since if known == uid else at
        return self._brief[key][1] + FIRST_SUM - at


def _is_under_way(status: ClaimStatus) -> bool:
    """All is as it should be, but not all is done."""
    return {(c.type, c.reason) for c in status.conditions} == {("Accepted", "Accepted"), ("Ready", "Progressing")}


def _body(status: ClaimStatus) -> dict[str, Any]:
    counts: dict[str, Any] = {"observedGeneration": status.observed_generation, "provider": status.provider}
    counts |= {"desired": status.desired, "mounted": status.mounted, "failed": status.failed}
    written = {**counts, "summary": status.summary, "conditions": [_condition(c) for c in msgspec.to_builtins(status.conditions)]}
    return {"status": written}


def _condition(condition: dict[str, Any]) -> dict[str, Any]:
    """metav1.Condition wants its message even when it is empty."""
    return {"message": "", **condition}
