"""The objects that the suite's workloads are made of, in the shapes that a user would write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GROUP = "dynamicvolume.csi.cloudnative101.net"
API = f"{GROUP}/v1alpha1"
ROOT = "/buckets"
IMAGE = "busybox:1.36"
"""Of users' containers: the one that a cluster without a registry must hold for the suite, beside dynvol's."""

Manifest = dict[str, Any]


def namespace(name: str, *, annotations: Mapping[str, str] = {}, labels: Mapping[str, str] = {}) -> Manifest:
    meta = {"name": name, "annotations": dict(annotations), "labels": dict(labels)}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}


def secret(name: str, *, namespace: str, access: str, key: str) -> Manifest:
    data = {"access-key-id": access, "secret-access-key": key}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "stringData": data}


def provider_class(name: str, *, secret: str, secret_namespace: str, provider: str = "s3", **parameters: str) -> Manifest:
    """`parameters` as in `mount_cpu_limit="1"`; the group's prefix and the dashes are added."""
    given = {"storage-provider-secret-name": secret, "storage-provider-secret-namespace": secret_namespace}
    given |= {key.replace("_", "-"): value for key, value in parameters.items()}
    spec = {"provider": provider, "parameters": {f"{GROUP}/{k}": v for k, v in given.items() if v}}
    return {"apiVersion": API, "kind": "StorageProviderClass", "metadata": {"name": name}, "spec": spec}


def claim(
    name: str,
    *,
    bucket: str,
    endpoint: str,
    mountpoint: str = "/data",
    selector: Mapping[str, Any] | None = None,
    read_only: bool | None = None,
    s3: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Manifest:
    """Matches `app: <namespace's own>` pods, i.e. `{"app": "web"}`, unless `selector` says otherwise."""
    config = {"bucket": bucket, "endpoint": endpoint, **(s3 or {})}
    chosen = {"matchLabels": {"app": "web"}} if selector is None else dict(selector)
    written = {"mountpoint": mountpoint, "s3Config": config, "selector": chosen, **spec}
    if read_only is not None:
        written["readOnly"] = read_only
    return {"apiVersion": API, "kind": "DynamicVolumeClaim", "metadata": {"name": name}, "spec": written}


def opted_in(provider_class: str, *, root: str = ROOT, **more: str) -> dict[str, str]:
    """The annotations by which a pod opts in."""
    given = {"storage-provider-class": provider_class, "volume-mount-path-root": root}
    given |= {key.replace("_", "-"): value for key, value in more.items()}
    return {f"{GROUP}/{k}": v for k, v in given.items()}


def pod_spec(*, command: list[str] | None = None, **more: Any) -> Manifest:
    container = {"name": "app", "image": IMAGE, "command": command or ["sleep", "infinity"]}
    return {"terminationGracePeriodSeconds": 2, "containers": [container], **more}


def deployment(name: str, *, annotations: Mapping[str, str], replicas: int = 2, spec: Manifest | None = None) -> Manifest:
    labels = {"app": name}
    template = {"metadata": {"labels": labels, "annotations": dict(annotations)}, "spec": spec or pod_spec()}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def pod(
    name: str, *, annotations: Mapping[str, str] = {}, labels: Mapping[str, str] | None = None, spec: Manifest | None = None
) -> Manifest:
    meta = {"name": name, "labels": {"app": "web"} if labels is None else dict(labels), "annotations": dict(annotations)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec or pod_spec()}
