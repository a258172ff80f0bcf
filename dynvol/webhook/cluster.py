"""What the webhook knows of the cluster and writes to it, through `dynvol.kube`.

Reads come from informers' stores. The only writes are the certificate's Secret and the caBundle of both webhook configurations.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dynvol.api.claim import DynamicVolumeClaim
from dynvol.api.core import Namespace, Secret
from dynvol.api.meta import ObjectMeta, Projection
from dynvol.api.providerclass import StorageProviderClass
from dynvol.api.resources import NAMESPACES, SECRETS, Resource
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import AlreadyExists, Conflict, Invalid, NotFound
from dynvol.observe import logs
from dynvol.runtime.informer import Informer

from .certificates import Certificate, authorities_in, merged
from .renewal import Lost, Stored, utc_now

log = logs.get(__name__)

BY_NAMESPACE: Final = "namespace"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
OURS: Final = "dynvol"
CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"
AUTHORITIES: Final = "ca.crt"


class ClientConfig(Projection, frozen=True):
    ca_bundle: bytes = b""


class Webhook(Projection, frozen=True):
    name: str
    client_config: ClientConfig = ClientConfig()


class WebhookConfiguration(Projection, frozen=True):
    """Either kind: they differ in nothing that is read here."""

    metadata: ObjectMeta = ObjectMeta()
    webhooks: tuple[Webhook, ...] = ()


_GROUP: Final = "admissionregistration.k8s.io"
CONFIGURATIONS: Final = tuple(
    Resource(_GROUP, "v1", f"{kind.lower()}s", kind, False, WebhookConfiguration)
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
)


@dataclass(frozen=True, slots=True)
class InformedView:
    """Implements `reviewers.ClusterView`. `claim_informer` has the index `BY_NAMESPACE`."""

    client: KubeClient
    class_informer: Informer[StorageProviderClass]
    claim_informer: Informer[DynamicVolumeClaim]
    namespace_informer: Informer[Namespace]

    def classes(self) -> Mapping[str, StorageProviderClass]:
        return {c.metadata.name: c for c in self.class_informer.store.values()}

    def claims(self, namespace: str) -> Sequence[DynamicVolumeClaim]:
        return self.claim_informer.store.by_index(BY_NAMESPACE, namespace)

    def namespace(self, name: str) -> Namespace | None:
        return self.namespace_informer.store.get(name)

    async def namespace_now(self, name: str) -> Namespace | None:
        try:
            return await self.client.get(NAMESPACES, name)
        except NotFound:
            return None


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """Implements `renewal.CertificateSecret` by a Secret of type kubernetes.io/tls with a `ca.crt` beside the pair."""

    client: KubeClient
    namespace: str
    name: str

    async def read(self) -> Stored | None:
        try:
            secret = await self.client.get(SECRETS, self.name, namespace=self.namespace)
        except NotFound:
            return None
        meta = secret.metadata
        return Stored(_certificate(secret), version=meta.resource_version, managed=meta.labels.get(MANAGED_BY) == OURS)

    async def create(self, certificate: Certificate) -> None:
        labels = {"app.kubernetes.io/name": "dynvol", MANAGED_BY: OURS}
        body = {"metadata": {"name": self.name, "labels": labels}, "type": "kubernetes.io/tls", "data": _data(certificate)}
        try:
            await self.client.create(SECRETS, body, namespace=self.namespace)
        except AlreadyExists as error:
            raise Lost from error

    async def replace(self, certificate: Certificate, *, version: str) -> None:
        body = {"metadata": {"resourceVersion": version}, "data": _data(certificate)}
        try:
            await self.client.merge_patch(SECRETS, self.name, body, namespace=self.namespace)
        except (Conflict, NotFound) as error:
            raise Lost from error


def _certificate(secret: Secret) -> Certificate | None:
    chain, key, authorities = (secret.data.get(k, b"") for k in (CERTIFICATE, KEY, AUTHORITIES))
    return Certificate(chain, key, authorities) if chain and key and authorities else None


def _data(certificate: Certificate) -> dict[str, str]:
    pairs = ((CERTIFICATE, certificate.chain), (KEY, certificate.key), (AUTHORITIES, certificate.authorities))
    return {key: base64.b64encode(value).decode() for key, value in pairs}


@dataclass(frozen=True, slots=True)
class TrustingConfigurations:
    """Implements `renewal.TrustStore` by the caBundle of every webhook in both configurations of this name."""

    client: KubeClient
    name: str

    async def trust(self, authorities: bytes) -> bool:
        results = [await self._trust(resource, authorities) for resource in CONFIGURATIONS]
        return all(results)

    async def _trust(self, resource: Resource[WebhookConfiguration], authorities: bytes) -> bool:
        """What a configuration trusts beyond `authorities` stays: another replica may serve, or know of, what we never read.

        The patch is tested against the version that it was worked out from, for the same reason.
        """
        try:
            configuration = await self.client.get(resource, self.name)
            if bundles := _bundles(configuration, authorities):
                version = {"op": "test", "path": "/metadata/resourceVersion", "value": configuration.metadata.resource_version}
                await self.client.json_patch(resource, self.name, [version, *bundles])
        except NotFound:
            log.info("waiting for the webhook configuration", kind=resource.kind, name=self.name)
            return False
        except (Conflict, Invalid):
            return False
        return True


def _bundles(configuration: WebhookConfiguration, authorities: bytes) -> list[dict[str, Any]]:
    """The patch that makes every webhook trust all of `authorities`; empty where all do."""
    needed = authorities_in(authorities)
    present = [(i, hook.client_config.ca_bundle) for i, hook in enumerate(configuration.webhooks)]
    return [_bundle(i, merged(authorities, bundle, now=utc_now())) for i, bundle in present if not needed <= authorities_in(bundle)]


def _bundle(index: int, bundle: bytes) -> dict[str, Any]:
    return {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": base64.b64encode(bundle).decode()}
