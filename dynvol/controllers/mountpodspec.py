"""The manifests that a node process writes: a mount pod and the copy of the Secret that it alone mounts.

Pure. Names come from `api.identity`, so a manifest made twice is the same object.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dynvol.api import names
from dynvol.api.claim import digest
from dynvol.api.core import Node, Pod, Secret
from dynvol.api.identity import Workload, label_value
from dynvol.api.meta import ObjectMeta
from dynvol.api.mounts import OWN_SECRETS, WantedMount, encode, own_secret_prefix
from dynvol.api.providerclass import StorageProviderClass
from dynvol.mount.providers.contract import Provider

Manifest = dict[str, Any]

CREDENTIALS_DIGEST = f"{names.GROUP}/credentials-digest"
"""On a mount pod and its Secret copy: changes when one of the original Secrets does."""
_LONGEST_KEY: Final = 253
"""Of a Secret (apimachinery, IsConfigMapKey)."""
NOTHING: Final[Mapping[str, Secret]] = {}


@dataclass(frozen=True, slots=True)
class Installation:
    """What all mount pods of this installation share. `grace_seconds` is how long one goes on serving while its node is drained."""

    namespace: str
    image: str
    state_dir: str
    service_account: str = names.MOUNT_ACCOUNT
    grace_seconds: int = 600


def mount_pod(
    workload: Workload,
    *,
    provider_class: StorageProviderClass,
    wanted: Sequence[WantedMount],
    installation: Installation,
    node: Node | None,
    credentials: str,
) -> Manifest:
    """The mount pod of `workload`, already told what to mount.

    Its node owns it, as one owns its static pods: `kubectl drain` refuses a node with a pod that has no controller, and a node that
    is removed takes it along. `node` is None while it is not known. `credentials` is the digest of the Secrets that were copied.
    """
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": workload.mount_pod,
            "namespace": installation.namespace,
            "labels": labels(workload),
            "annotations": {
                names.WORKLOAD_ANNOTATION: workload.annotation,
                names.WANTED_ANNOTATION: encode(wanted),
                CREDENTIALS_DIGEST: credentials,
            },
            **({"ownerReferences": [{**_owner_reference("Node", node.metadata), "controller": True}]} if node else {}),
        },
        "spec": {
            "serviceAccountName": installation.service_account,
            "priorityClassName": "system-node-critical",
            "restartPolicy": "OnFailure",
            "terminationGracePeriodSeconds": installation.grace_seconds,
            "enableServiceLinks": False,
            **_network(provider_class),
            "tolerations": [{"operator": "Exists"}],
            "affinity": _pinned_to(workload.node),
            "containers": [_mounter(provider_class, installation)],
            "volumes": [
                {"name": "xvols", "hostPath": {"path": str(workload.root(installation.state_dir)), "type": "Directory"}},
                {"name": "credentials", "secret": {"secretName": workload.mount_pod, "defaultMode": 0o400}},
                # On the node's disk, where a successor finds what was not uploaded. No emptyDir: `kubectl drain` asks about those.
                {"name": "cache", "hostPath": {"path": str(workload.cache(installation.state_dir)), "type": "DirectoryOrCreate"}},
            ],
        },
    }


def labels(workload: Workload) -> dict[str, str]:
    """By these a node finds its own mount pods and Secret copies, and the leader those of a class."""
    return {
        "app.kubernetes.io/name": "dynvol",
        "app.kubernetes.io/component": "mount-pod",
        names.MOUNT_POD_LABEL: workload.uuid,
        names.NODE_LABEL: label_value(workload.node),
        names.CLASS_ANNOTATION: label_value(workload.provider_class),
    }


def _network(provider_class: StorageProviderClass) -> Manifest:
    """The kernel's NFS client connects from the network in which it was told to mount. A pod's own ends with the pod: whoever reads
    or writes would wait from then on, some of them where no signal reaches."""
    in_kernel = provider_class.spec.provider == names.NFS
    return {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"} if in_kernel else {}


def _pinned_to(node: str) -> Manifest:
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    terms = [{"matchFields": [field]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def _mounter(provider_class: StorageProviderClass, installation: Installation) -> Manifest:
    return {
        "name": "mounter",
        "image": installation.image,
        "args": ["mounter", f"--grace={installation.grace_seconds}"],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        ],
        # Bidirectional propagation is for privileged containers only (Kubernetes' rule, not ours).
        "securityContext": {"privileged": True},
        "resources": resources(provider_class.spec.parameters),
        "volumeMounts": [
            {"name": "xvols", "mountPath": names.MOUNTER_ROOT, "mountPropagation": "Bidirectional"},
            {"name": "credentials", "mountPath": names.CREDENTIALS_DIR, "readOnly": True},
            {"name": "cache", "mountPath": "/var/cache/dynvol"},
        ],
    }


def resources(parameters: Mapping[str, str]) -> Manifest:
    """`resources` of the mounter, as the class grants them; what it does not name is left open."""
    keys = {
        ("requests", "cpu"): names.CPU_REQUEST_PARAMETER,
        ("requests", "memory"): names.MEMORY_REQUEST_PARAMETER,
        ("limits", "cpu"): names.CPU_LIMIT_PARAMETER,
        ("limits", "memory"): names.MEMORY_LIMIT_PARAMETER,
    }
    granted: Manifest = {}
    for (kind, what), key in keys.items():
        if value := parameters.get(key):
            granted.setdefault(kind, {})[what] = value
    return granted


def secret_copy(
    workload: Workload,
    *,
    original: Secret | None,
    own: Mapping[str, Secret] = NOTHING,
    provider: Provider | None,
    namespace: str,
    owner: Pod | None,
) -> Manifest:
    """The copy of a class's Secret, and of claims' `own`, that one mount pod mounts, with only the keys that `provider` reads.

    It must exist before its mount pod, so the first copy has no owner; once it has one, it is garbage-collected with it.
    """
    data = {} if original is None else {k: v for k, v in read(original, provider).items() if not k.startswith(OWN_SECRETS)}
    for name, secret in own.items():
        data |= {own_secret_prefix(name) + key: value for key, value in read(secret, provider).items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": workload.mount_pod,
            "namespace": namespace,
            "labels": labels(workload),
            "annotations": {CREDENTIALS_DIGEST: credentials_digest(original, own)},
            **({"ownerReferences": [_owner_reference("Pod", owner.metadata)]} if owner else {}),
        },
        "type": "Opaque",
        "data": {key: base64.b64encode(value).decode() for key, value in data.items() if len(key) <= _LONGEST_KEY},
    }


def read(secret: Secret, provider: Provider | None) -> dict[str, bytes]:
    """What `provider` reads of a Secret."""
    return {key: value for key, value in secret.data.items() if _reads(provider, key)}


def _reads(provider: Provider | None, key: str) -> bool:
    if provider is None:
        return False
    return provider.optional_keys is None or key in (*provider.secret_keys, *provider.optional_keys)


def _owner_reference(kind: str, owner: ObjectMeta) -> Manifest:
    return {"apiVersion": "v1", "kind": kind, "name": owner.name, "uid": owner.uid}


def credentials_digest(original: Secret | None, own: Mapping[str, Secret] = NOTHING) -> str:
    """Says whether a copy is up to date without reading it. Twelve digits of a hash over uids and versions, with no key in it."""
    return digest((*_version(original), *(part for name in sorted(own) for part in (name, *_version(own[name])))))


def _version(secret: Secret | None) -> tuple[str, str]:
    return (secret.metadata.uid, secret.metadata.resource_version) if secret is not None else ("", "")
