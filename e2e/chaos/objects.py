"""What chaos makes in the cluster: its namespace, classes, Secret, pods and claims."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2e import manifests
from e2e.chaos import writer
from e2e.manifests import GROUP, Manifest

NAMESPACE = "chaos"
SECRET = "s3"
CLIENTS = ("s3fs", "rclone")
"""Each has a class of its name, and a volume root of its name in every pod."""

STEADY = "steady"
GUEST_CLAIMS = ("guest-0", "guest-1", "guest-2")
WELCOME = {"guests": "welcome"}
UMASKS = ("0022", "0027")
PAUSE = 0.8
"""Seconds between two files in one mount."""


def class_name(client: str) -> str:
    return f"{NAMESPACE}-{client}"


def surroundings() -> list[Manifest]:
    """The namespace, whose pods wait for the webhook, and the classes."""
    made = [
        manifests.provider_class(
            class_name(client),
            secret=SECRET,
            secret_namespace=NAMESPACE,
            mounter=client,
            mount_cpu_request="10m",
            mount_memory_request="50Mi",
            mount_memory_limit="256Mi",
        )
        for client in CLIENTS
    ]
    return [manifests.namespace(NAMESPACE, labels={f"{GROUP}/inject": "enabled"}), *made]


def secret(access: str, key: str) -> Manifest:
    return manifests.secret(SECRET, namespace=NAMESPACE, access=access, key=key)


def claim(name: str, *, client: str, endpoint: str, mountpoint: str = "", umask: str = UMASKS[0], guests: bool = False) -> Manifest:
    """Its bucket has its name. It reaches all pods, a guest those that welcome it."""
    labels = {"app": NAMESPACE, **(WELCOME if guests else {})}
    made = manifests.claim(
        name,
        bucket=name,
        endpoint=endpoint,
        mountpoint=mountpoint or f"/{name}",
        selector={"matchLabels": labels},
        storageProviderClass=class_name(client),
        umask=umask,
    )
    return _here(made)


def steady_claims(endpoint: str) -> list[Manifest]:
    return [claim(f"{STEADY}-{client}", client=client, endpoint=endpoint) for client in CLIENTS]


def pod(name: str, *, node: str, ledger: Path, shared: bool = False, labels: Mapping[str, str] = {}) -> Manifest:
    """A pod that writes. Its class annotation names all classes, so that it has a volume, and a mount pod, for each."""
    program = [sys.executable, "-I", "-S", writer.__file__, f"/ledger/{name}", name, str(PAUSE), *(f"/{c}" for c in CLIENTS)]
    container = {
        "name": "writer",
        "image": "busybox:1.36",
        "command": program,
        "volumeMounts": [{"name": "ledger", "mountPath": "/ledger"}],
    }
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "terminationGracePeriodSeconds": 1,
        "restartPolicy": "Always",
        "containers": [container],
        "volumes": [{"name": "ledger", "hostPath": {"path": str(ledger), "type": "Directory"}}],
    }
    opted = {
        "storage-provider-class": ",".join(class_name(c) for c in CLIENTS),
        "volume-mount-path-root": ",".join(f"/{c}" for c in CLIENTS),
        "mount-pod-dispatch-policy": "shared" if shared else "independent",
    }
    annotations = {f"{GROUP}/{key}": value for key, value in opted.items()}
    return _here(manifests.pod(name, annotations=annotations, labels={"app": NAMESPACE, **labels}, spec=spec))


def hog(node: str, *, milli_cpu: int) -> Manifest:
    """A pod that asks for so much of a node that nothing else fits."""
    container = {
        "name": "hog",
        "image": "busybox:1.36",
        "command": ["sleep", "infinity"],
        "resources": {"requests": {"cpu": f"{milli_cpu}m"}},
    }
    spec: dict[str, Any] = {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]}
    return _here(manifests.pod(f"hog-{node}", annotations={f"{GROUP}/inject": "false"}, labels={"app": "hog"}, spec=spec))


def _here(manifest: Manifest) -> Manifest:
    manifest["metadata"]["namespace"] = NAMESPACE
    return manifest
