"""A holder pod: the manifest, and what a pod must look like to be taken for one.

It does nothing but exist, until it is told to end. Kubelet mounts for it what its only container mentions; the container has no
rights and needs none, and so passes the `restricted` Pod Security Standard, which namespaces of users often enforce. What may be
made in these namespaces is held to this shape by a policy as well (config/rbac/holder-policy.yaml); whoever changes one changes
the other. Pure.
"""

from __future__ import annotations

from typing import Any, Final

from dynvol.api import names
from dynvol.api.core import Node, Pod
from dynvol.api.identity import Holding, label_value, uuid_of_holder
from dynvol.mount.held import CONTAINER, LAST_WORDS

Manifest = dict[str, Any]

GRACE: Final = 600
"""Seconds that a holder which someone deletes stays at the longest: as long as mount pods do in a drain. It goes as soon as a
successor holds the same, or those who need it have ended (`dynvol.mount.held.dismiss`), and so a drain waits that long only for
them, or for a node process that is not there."""
HOLD: Final = ("sh", "-c", f'trap "" TERM; tail -c +1 -f {LAST_WORDS} | head -c 1')
"""Ends with the first byte of its own last words, which the node process writes. It hears no SIGTERM: kubelet sends it as soon as
someone deletes the pod, and then the volume is still shown. A Python that waits for the same would take ten times the memory, in
the quota of users."""
_VOLUME: Final = "volume"
_NOBODY: Final = 65534
_ALL: Final = "."
"""As a `subPath`: the whole volume, through kubelet's own bind of it (`dynvol.mount.held`)."""


def holder_pod(holding: Holding, *, number: int, image: str, node: Node | None) -> Manifest:
    """The scheduler puts it on its node, rather than we: so volumes are bound that wait for their first consumer, and limits of
    volumes, zones and room are seen to, in words. Its node owns it, as it owns mount pods (`mountpodspec`)."""
    owner = node.metadata if node else None
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": holding.pod_name(number),
            "namespace": holding.namespace,
            "labels": labels(holding),
            # Whoever adds containers to the pods of this namespace, we too, has no business in it.
            "annotations": {names.INJECT: "false", "sidecar.istio.io/inject": "false", "linkerd.io/inject": "disabled"},
            **({"ownerReferences": [_owner_reference(owner.name, owner.uid)]} if owner else {}),
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": GRACE,
            "tolerations": [{"operator": "Exists"}],
            "affinity": _pinned_to(holding.node),
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _NOBODY,
                "runAsGroup": _NOBODY,
                "seccompProfile": {"type": "RuntimeDefault"},
                **({} if holding.group is None else {"fsGroup": holding.group, "fsGroupChangePolicy": "OnRootMismatch"}),
            },
            "containers": [_container(image)],
            "volumes": [{"name": _VOLUME, "persistentVolumeClaim": {"claimName": holding.volume_claim}}],
        },
    }


def labels(holding: Holding) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "dynvol",
        "app.kubernetes.io/component": "holder",
        names.HOLDER_LABEL: holding.uuid,
        names.NODE_LABEL: label_value(holding.node),
    }


def _container(image: str) -> Manifest:
    return {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": [*HOLD],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "1m", "memory": "4Mi"}, "limits": {"cpu": "50m", "memory": "16Mi"}},
        "volumeMounts": [{"name": _VOLUME, "mountPath": "/volume", "subPath": _ALL}],
    }


def _owner_reference(name: str, uid: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid, "controller": True}


def _pinned_to(node: str) -> Manifest:
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def holding_of(pod: Pod, *, node: str) -> Holding | None:
    """What a pod is the holder of on this node; None for one that says it is a holder, and is not.

    Users can make pods with any name and label in their namespaces, and a Secret looks like any volume where kubelet mounts it.
    So what is mounted for a pod counts only if its spec, which no one can change, leaves nothing else that it could be.
    """
    containers = [c for c in (*pod.spec.containers, *pod.spec.init_containers) if c.name == CONTAINER]
    if len(pod.spec.volumes) != 1 or len(containers) != 1 or not containers[0].volume_mounts:
        return None
    (volume,), first = pod.spec.volumes, containers[0].volume_mounts[0]
    if volume.persistent_volume_claim is None or (first.name, first.sub_path) != (volume.name, _ALL):
        return None
    group = pod.spec.security_context.fs_group
    found = Holding(node, pod.metadata.namespace, volume.persistent_volume_claim.claim_name, group)
    named = uuid_of_holder(pod.metadata.name), pod.metadata.labels.get(names.HOLDER_LABEL)
    return found if named == (found.uuid, found.uuid) else None
