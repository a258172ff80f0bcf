"""Who answers for which path: decodes what the rules need, asks what the cluster has, lets the rules decide.

It writes nothing to the API: a webhook that does runs into its own traffic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from dynvol.api import names
from dynvol.api.claim import ClaimSpec, DynamicVolumeClaim
from dynvol.api.core import Namespace
from dynvol.api.meta import ObjectMeta, Projection
from dynvol.api.providerclass import ClassSpec, StorageProviderClass

from .review import AdmissionRequest, Malformed
from .rules.admitted import AdmittedPod
from .rules.claims import hold, review_claim
from .rules.classes import review_class
from .rules.pods import review_pod
from .rules.verdict import Verdict

ENABLED = "enabled"


class ClusterView(Protocol):
    """What the rules may ask of the cluster. From caches, but for `namespace_now`."""

    def classes(self) -> Mapping[str, StorageProviderClass]: ...

    def claims(self, namespace: str) -> Sequence[DynamicVolumeClaim]: ...

    def namespace(self, name: str) -> Namespace | None: ...

    async def namespace_now(self, name: str) -> Namespace | None:
        """As the API server has it now. Raises what the client raises."""
        ...


class _Claim(Projection, frozen=True):
    spec: ClaimSpec


class _New(Projection, frozen=True):
    metadata: ObjectMeta = ObjectMeta()


class _Class(Projection, frozen=True):
    spec: ClassSpec


_pods = msgspec.json.Decoder(AdmittedPod)
_claims = msgspec.json.Decoder(_Claim)
_news = msgspec.json.Decoder(_New)
_classes = msgspec.json.Decoder(_Class)
T = TypeVar("T")


class Reviewers:
    def __init__(self, cluster: ClusterView) -> None:
        self._cluster = cluster

    async def pod(self, request: AdmissionRequest) -> Verdict:
        pod = _decoded(_pods, request)
        defaults = await self._defaults(request.namespace, expected=not pod.asks_itself)
        return review_pod(pod, namespace=request.namespace, defaults=defaults, classes=self._cluster.classes())

    async def claim(self, request: AdmissionRequest) -> Verdict:
        claim = _decoded(_claims, request)
        neighbours = self._cluster.claims(request.namespace)
        return review_claim(
            claim.spec,
            name=request.name,
            namespace=request.namespace,
            neighbours=neighbours,
            classes=self._cluster.classes(),
        )

    async def new_claim(self, request: AdmissionRequest) -> Verdict:
        return hold(_decoded(_news, request).metadata)

    async def provider_class(self, request: AdmissionRequest) -> Verdict:
        return review_class(_decoded(_classes, request).spec)

    async def _defaults(self, name: str, *, expected: bool) -> Mapping[str, str]:
        """The annotations of a namespace that speaks for its pods, else nothing.

        A pod that asks for nothing itself is here because the API server saw the namespace's label. A cache that does not show it
        yet is behind, so the server is asked: such a pod must not start without its volume.
        """
        namespace = self._cluster.namespace(name)
        if expected and not _speaks(namespace):
            namespace = await self._cluster.namespace_now(name)
        return namespace.metadata.annotations if namespace is not None and _speaks(namespace) else {}


def _speaks(namespace: Namespace | None) -> bool:
    return namespace is not None and namespace.metadata.labels.get(names.INJECT) == ENABLED


def _decoded(decoder: msgspec.json.Decoder[T], request: AdmissionRequest) -> T:
    """Raises `Malformed`."""
    try:
        return decoder.decode(request.object)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the object under review cannot be read: {error}") from error
