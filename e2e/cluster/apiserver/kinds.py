"""What is special about a built-in kind when it is written: defaults, what a subresource may touch, validation, deletion.

Only what dynvol, kubectl and the local cluster's controllers can tell apart is here. A kind that is not in the table is plain:
stored as it comes.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from e2e.cluster.apiserver import definitions, metadata, pod_defaults
from e2e.cluster.apiserver.request import Target
from e2e.cluster.apiserver.resources import Resource
from e2e.cluster.apiserver.selectors import label_selector_matches
from e2e.cluster.apiserver.status import FieldError, Object, forbidden_field, invalid, required

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


def _nothing(_: Object) -> None:
    return


def _no_problems(_: Object, __: Object | None) -> Iterator[FieldError]:
    yield from ()


def _no_preparation(_: Object, __: Object, ___: str) -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    has_generation: bool = False
    needs_version: bool = False
    """An update has to name the version that it was made from."""
    default: Callable[[Object], None] = _nothing
    prepare_create: Callable[[Object], None] = _nothing
    prepare_update: Callable[[Object, Object, str], None] = _no_preparation
    """(new, old, subresource)"""
    problems: Callable[[Object, Object | None], Iterator[FieldError]] = _no_problems


def of(resource: Resource) -> Kind:
    if resource.custom is not None:
        return CUSTOM
    return KINDS.get(resource.storage, PLAIN)


def restrict(target: Target, old: Object, new: Object) -> Object:
    """Put back what this path of the API may not change: the status on the main path, all else on /status."""
    if target.subresource == "status":
        kept = {**old, "metadata": {**old["metadata"], "managedFields": new["metadata"].get("managedFields")}}
        if target.resource.custom is None:
            kept["metadata"] = {**new["metadata"], "ownerReferences": old["metadata"].get("ownerReferences")}
        kept["metadata"] = {name: value for name, value in kept["metadata"].items() if value is not None}
        kept.pop("status", None)
        return kept | ({"status": new["status"]} if "status" in new else {})
    if target.subresource == "finalize":
        finalizers = (new.get("spec") or {}).get("finalizers") or []
        return {**old, "metadata": new["metadata"], "spec": {**old.get("spec", {}), "finalizers": finalizers}}
    if target.resource.has_status and target.subresource != "binding":
        new = {name: value for name, value in new.items() if name != "status"}
        return new | ({"status": old["status"]} if "status" in old else {})
    return new


def may_go(storage: str, body: Object) -> bool:
    """Whether an object that is being deleted waits for nothing any more."""
    meta = body["metadata"]
    if not meta.get("deletionTimestamp") or meta.get("finalizers") or meta.get("deletionGracePeriodSeconds"):
        return False
    return storage != "/namespaces" or not (body.get("spec") or {}).get("finalizers")


def deleting(resource: Resource, body: Object, options: Object) -> tuple[Object, bool]:
    """The object as its deletion leaves it, and whether it remains for now."""
    meta = body["metadata"]
    _set_propagation(meta, options)
    grace = _grace(resource, body, options)
    if "deletionTimestamp" in meta:
        if grace < (meta.get("deletionGracePeriodSeconds") or 0):
            meta["deletionGracePeriodSeconds"] = grace
            meta["deletionTimestamp"] = metadata.in_seconds(grace)
    elif grace or meta.get("finalizers") or resource.storage == "/namespaces":
        meta["deletionTimestamp"] = metadata.in_seconds(grace)
        meta["deletionGracePeriodSeconds"] = grace
        if "generation" in meta:
            meta["generation"] += 1
    else:
        return body, False
    if resource.storage == "/namespaces":
        meta.pop("deletionGracePeriodSeconds", None)
        body.setdefault("status", {})["phase"] = "Terminating"
    return body, not may_go(resource.storage, body)


def _set_propagation(meta: Object, options: Object) -> None:
    policy = options.get("propagationPolicy")
    if options.get("orphanDependents") is not None:
        policy = "Orphan" if options["orphanDependents"] else "Background"
    if not policy:
        return
    finalizers = [name for name in meta.get("finalizers") or () if name not in (FOREGROUND, ORPHAN)]
    finalizers += {"Foreground": [FOREGROUND], "Orphan": [ORPHAN]}.get(policy, [])
    if finalizers:
        meta["finalizers"] = finalizers
    else:
        meta.pop("finalizers", None)


def _grace(resource: Resource, body: Object, options: Object) -> int:
    """Seconds that a pod is given to end; nothing else has any."""
    if resource.storage != "/pods":
        return 0
    spec = body.get("spec") or {}
    if not spec.get("nodeName") or (body.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    asked = options.get("gracePeriodSeconds")
    if asked is None or asked < 0:
        asked = spec.get("terminationGracePeriodSeconds", 30)
    return int(asked)


def _default_namespace(body: Object) -> None:
    body.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    body.setdefault("status", {}).setdefault("phase", "Active")
    labels = body["metadata"].setdefault("labels", {})
    if name := body["metadata"].get("name"):
        labels["kubernetes.io/metadata.name"] = name


def _namespace_update(new: Object, old: Object, subresource: str) -> None:
    if subresource != "finalize":
        new["spec"] = {**new.get("spec", {}), "finalizers": old.get("spec", {}).get("finalizers", [])}


def _default_secret(body: Object) -> None:
    body.setdefault("type", "Opaque")
    for name, text in (body.pop("stringData", None) or {}).items():
        body.setdefault("data", {})[name] = base64.b64encode(text.encode()).decode()


def _secret_problems(body: Object, old: Object | None) -> Iterator[FieldError]:
    for name, value in (body.get("data") or {}).items():
        try:
            base64.b64decode(value, validate=True)
        except ValueError:
            yield invalid(f"data[{name}]", value, "must be base64")
    if old is not None and old.get("type") != body.get("type"):
        yield invalid("type", body.get("type"), "field is immutable")
    yield from _immutable_data(body, old)


def _immutable_data(body: Object, old: Object | None) -> Iterator[FieldError]:
    if old is None or not old.get("immutable"):
        return
    for name in ("data", "binaryData"):
        if body.get(name) != old.get(name):
            yield forbidden_field(name, "field is immutable when `immutable` is set")
    if not body.get("immutable"):
        yield forbidden_field("immutable", "field is immutable when `immutable` is set")


def _default_deployment(body: Object) -> None:
    spec = _workload(body)
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxSurge", "25%")
        rolling.setdefault("maxUnavailable", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)


def _default_replica_set(body: Object) -> None:
    _workload(body).setdefault("replicas", 1)


def _default_daemon_set(body: Object) -> None:
    spec = _workload(body)
    _default_rolling(spec, {"maxSurge": 0, "maxUnavailable": 1})
    spec.setdefault("revisionHistoryLimit", 10)


def _default_stateful_set(body: Object) -> None:
    spec = _workload(body)
    spec.setdefault("replicas", 1)
    spec.setdefault("podManagementPolicy", "OrderedReady")
    spec.setdefault("revisionHistoryLimit", 10)
    _default_rolling(spec, {"partition": 0})


def _default_rolling(spec: Object, rolling: Object) -> None:
    strategy = spec.setdefault("updateStrategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        strategy["rollingUpdate"] = rolling | (strategy.get("rollingUpdate") or {})


def _default_job(body: Object) -> None:
    spec = _workload(body)
    spec.setdefault("parallelism", 1)
    spec.setdefault("completions", 1)
    spec.setdefault("backoffLimit", 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)


def _label_job_pods(body: Object) -> None:
    """A job finds its pods by its own uid, unless it says otherwise."""
    spec, meta = body["spec"], body["metadata"]
    if spec.get("manualSelector") or "template" not in spec:
        return
    labels = spec["template"].setdefault("metadata", {}).setdefault("labels", {})
    for prefix in ("", "batch.kubernetes.io/"):
        labels |= {f"{prefix}controller-uid": meta["uid"], f"{prefix}job-name": meta["name"]}
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": meta["uid"]}}


def _workload(body: Object) -> Object:
    """The spec of what makes pods, its pod template defaulted as a pod is."""
    spec: Object = body.setdefault("spec", {})
    template = spec.get("template")
    if isinstance(template, dict):
        template.setdefault("metadata", {})
        pod_defaults.default_spec(template.setdefault("spec", {}))
    return spec


def _workload_problems(body: Object, old: Object | None) -> Iterator[FieldError]:
    spec = body.get("spec") or {}
    template = spec.get("template") or {}
    selector = spec.get("selector")
    if not selector:
        yield required("spec.selector")
    elif not label_selector_matches(selector, (template.get("metadata") or {}).get("labels") or {}):
        labels = (template.get("metadata") or {}).get("labels") or {}
        yield invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    if old is not None and selector != (old.get("spec") or {}).get("selector"):
        yield invalid("spec.selector", selector, "field is immutable")
    yield from pod_defaults.spec_problems(template.get("spec") or {}, "spec.template.spec")


def _default_service(body: Object) -> None:
    spec = body.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    spec.setdefault("internalTrafficPolicy", "Cluster")
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))
    if spec["type"] != "ExternalName" and body["metadata"].get("uid") and not spec.get("clusterIP"):
        spec["clusterIP"] = _service_address(body)
    if spec.get("clusterIP"):
        spec.setdefault("clusterIPs", [spec["clusterIP"]])
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
    body.setdefault("status", {}).setdefault("loadBalancer", {})


def _service_address(body: Object) -> str:
    """An address to show: nothing routes it here, but clients expect one. It follows from the uid."""
    if (body["metadata"].get("namespace"), body["metadata"].get("name")) == ("default", "kubernetes"):
        return "10.96.0.1"
    number = int(body["metadata"]["uid"].replace("-", "")[:4], 16)
    return f"10.96.{number >> 8}.{max(number & 0xFF, 2)}"


def _default_webhooks(body: Object) -> None:
    for hook in body.get("webhooks") or ():
        hook.setdefault("failurePolicy", "Fail")
        hook.setdefault("matchPolicy", "Equivalent")
        hook.setdefault("namespaceSelector", {})
        hook.setdefault("objectSelector", {})
        hook.setdefault("timeoutSeconds", 10)
        if body["kind"] == "MutatingWebhookConfiguration":
            hook.setdefault("reinvocationPolicy", "Never")
        for rule in hook.get("rules") or ():
            rule.setdefault("scope", "*")
        if service := (hook.get("clientConfig") or {}).get("service"):
            service.setdefault("port", 443)


def _webhook_problems(body: Object, _: Object | None) -> Iterator[FieldError]:
    yield from metadata.duplicate_names(body.get("webhooks"), "webhooks")
    for index, hook in enumerate(body.get("webhooks") or ()):
        path = f"webhooks[{index}]"
        client = hook.get("clientConfig") or {}
        if bool(client.get("url")) == bool(client.get("service")):
            yield required(f"{path}.clientConfig", "exactly one of url or service is required")
        if url := client.get("url"):
            yield from _webhook_url_problems(url, f"{path}.clientConfig.url")
        if hook.get("sideEffects") not in ("None", "NoneOnDryRun"):
            yield FieldError(
                f"{path}.sideEffects",
                "FieldValueNotSupported",
                f'Unsupported value: "{hook.get("sideEffects", "")}": supported values: "None", "NoneOnDryRun"',
            )
        if not hook.get("admissionReviewVersions"):
            yield required(f"{path}.admissionReviewVersions", "must specify at least one of v1, v1beta1")


def _webhook_url_problems(url: str, path: str) -> Iterator[FieldError]:
    parts = urlsplit(url)
    if parts.scheme != "https":
        yield invalid(path, parts.scheme, '"https" is the only allowed URL scheme; desired format: https://host[/path]')
    if parts.query:
        yield invalid(path, parts.query, "query parameters are not permitted in the URL")
    if parts.fragment:
        yield invalid(path, parts.fragment, "fragments are not permitted in the URL")


def _default_csi_driver(body: Object) -> None:
    spec = body.setdefault("spec", {})
    spec.setdefault("attachRequired", True)
    spec.setdefault("podInfoOnMount", False)
    spec.setdefault("storageCapacity", False)
    spec.setdefault("fsGroupPolicy", "ReadWriteOnceWithFSType")
    spec.setdefault("volumeLifecycleModes", ["Persistent"])
    spec.setdefault("requiresRepublish", False)
    spec.setdefault("seLinuxMount", False)


def _default_binding(body: Object) -> None:
    body.get("roleRef", {}).setdefault("apiGroup", "rbac.authorization.k8s.io")
    for subject in body.get("subjects") or ():
        if subject.get("kind") in ("User", "Group"):
            subject.setdefault("apiGroup", "rbac.authorization.k8s.io")


def _binding_problems(body: Object, old: Object | None) -> Iterator[FieldError]:
    if old is not None and old.get("roleRef") != body.get("roleRef"):
        yield invalid("roleRef", body.get("roleRef"), "cannot change roleRef")


def _default_volume_claim(body: Object) -> None:
    body.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
    body.setdefault("status", {}).setdefault("phase", "Pending")


def _default_volume(body: Object) -> None:
    spec = body.setdefault("spec", {})
    spec.setdefault("volumeMode", "Filesystem")
    spec.setdefault("persistentVolumeReclaimPolicy", "Retain")
    if "hostPath" in spec:
        spec["hostPath"].setdefault("type", "")
    body.setdefault("status", {}).setdefault("phase", "Pending")


def _protected_by(finalizer: str) -> Callable[[Object], None]:
    """The admission plug-in StorageObjectInUseProtection: the controller of that name takes the finalizer off."""

    def protect(body: Object) -> None:
        finalizers = body["metadata"].setdefault("finalizers", [])
        if finalizer not in finalizers:
            finalizers.append(finalizer)

    return protect


def _default_storage_class(body: Object) -> None:
    body.setdefault("reclaimPolicy", "Delete")
    body.setdefault("volumeBindingMode", "Immediate")


PLAIN = Kind()
SPECIFIED = Kind(has_generation=True)
CUSTOM = Kind(has_generation=True, needs_version=True)
WEBHOOKS = Kind(has_generation=True, needs_version=True, default=_default_webhooks, problems=_webhook_problems)
ROLE_BINDING = Kind(default=_default_binding, problems=_binding_problems)

KINDS: dict[str, Kind] = {
    "/configmaps": Kind(problems=_immutable_data),
    "/namespaces": Kind(default=_default_namespace, prepare_update=_namespace_update),
    "/persistentvolumeclaims": Kind(default=_default_volume_claim, prepare_create=_protected_by("kubernetes.io/pvc-protection")),
    "/persistentvolumes": Kind(default=_default_volume, prepare_create=_protected_by("kubernetes.io/pv-protection")),
    "/pods": Kind(
        has_generation=True,
        default=pod_defaults.default,
        prepare_create=pod_defaults.prepare_create,
        problems=pod_defaults.problems,
    ),
    "/secrets": Kind(default=_default_secret, problems=_secret_problems),
    "/services": Kind(default=_default_service),
    "admissionregistration.k8s.io/mutatingwebhookconfigurations": WEBHOOKS,
    "admissionregistration.k8s.io/validatingadmissionpolicies": SPECIFIED,
    "admissionregistration.k8s.io/validatingadmissionpolicybindings": SPECIFIED,
    "admissionregistration.k8s.io/validatingwebhookconfigurations": WEBHOOKS,
    definitions.STORAGE: Kind(
        has_generation=True,
        needs_version=True,
        default=definitions.default,
        prepare_create=definitions.prepare_create,
        prepare_update=definitions.prepare_update,
        problems=definitions.problems,
    ),
    "apps/daemonsets": Kind(has_generation=True, default=_default_daemon_set, problems=_workload_problems),
    "apps/deployments": Kind(has_generation=True, default=_default_deployment, problems=_workload_problems),
    "apps/replicasets": Kind(has_generation=True, default=_default_replica_set, problems=_workload_problems),
    "apps/statefulsets": Kind(has_generation=True, default=_default_stateful_set, problems=_workload_problems),
    "batch/cronjobs": SPECIFIED,
    "batch/jobs": Kind(has_generation=True, default=_default_job, prepare_create=_label_job_pods),
    "coordination.k8s.io/leases": Kind(needs_version=True),
    "networking.k8s.io/networkpolicies": SPECIFIED,
    "policy/poddisruptionbudgets": Kind(has_generation=True, needs_version=True),
    "rbac.authorization.k8s.io/clusterrolebindings": ROLE_BINDING,
    "rbac.authorization.k8s.io/rolebindings": ROLE_BINDING,
    "storage.k8s.io/csidrivers": Kind(has_generation=True, default=_default_csi_driver),
    "storage.k8s.io/storageclasses": Kind(default=_default_storage_class),
}
