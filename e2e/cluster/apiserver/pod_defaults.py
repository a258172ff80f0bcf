"""Pods, and the pod templates inside workloads: defaults, validation, and what is set when one is created."""

from __future__ import annotations

from collections.abc import Iterator

from e2e.cluster.apiserver import metadata
from e2e.cluster.apiserver.status import FieldError, Json, Object, forbidden_field, invalid, required, unsupported

MUTABLE = (
    "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions "
    "to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def default(body: Object) -> None:
    spec = body.setdefault("spec", {})
    default_spec(spec)
    spec.setdefault("enableServiceLinks", True)
    for container in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        _request_what_is_limited(container)


def _request_what_is_limited(container: Object) -> None:
    resources = container.get("resources") or {}
    if limits := resources.get("limits"):
        resources["requests"] = {**limits, **(resources.get("requests") or {})}


def default_spec(spec: Object) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("securityContext", {})
    if spec.get("hostNetwork"):
        _default_host_ports(spec)
    if "serviceAccountName" in spec:
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    elif "serviceAccount" in spec:
        spec["serviceAccountName"] = spec["serviceAccount"]
    for container in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        _default_container(container)
    for volume in spec.get("volumes") or ():
        _default_volume(volume)


def _default_host_ports(spec: Object) -> None:
    for container in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        for port in container.get("ports") or ():
            port.setdefault("hostPort", port.get("containerPort"))


def _default_container(container: Object) -> None:
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("resources", {})
    image = str(container.get("image", ""))
    tag = image.rpartition("/")[2].partition(":")[2]
    latest = tag in ("", "latest") and "@" not in image
    container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
    for variable in container.get("env") or ():
        if field := (variable.get("valueFrom") or {}).get("fieldRef"):
            field.setdefault("apiVersion", "v1")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if probe := container.get(name):
            _default_probe(probe)


def _default_probe(probe: Object) -> None:
    for name, value in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        probe.setdefault(name, value)
    if request := probe.get("httpGet"):
        request.setdefault("scheme", "HTTP")
        request.setdefault("path", "/")
    if (grpc := probe.get("grpc")) is not None:
        grpc.setdefault("service", "")


def _default_volume(volume: Object) -> None:
    if set(volume) == {"name"}:
        volume["emptyDir"] = {}
    for source in ("secret", "configMap", "downwardAPI", "projected"):
        if (given := volume.get(source)) is not None:
            given.setdefault("defaultMode", 0o644)
            _default_files(given)
    for source in (volume.get("projected") or {}).get("sources") or ():
        if token := source.get("serviceAccountToken"):
            token.setdefault("expirationSeconds", 3600)
        _default_files(source.get("downwardAPI") or {})
    if (host := volume.get("hostPath")) is not None:
        host.setdefault("type", "")


def _default_files(source: Object) -> None:
    for item in source.get("items") or ():
        if field := item.get("fieldRef"):
            field.setdefault("apiVersion", "v1")


def prepare_create(body: Object) -> None:
    body["status"] = {"phase": "Pending", "qosClass": quality_of_service(body["spec"])}


def quality_of_service(spec: Object) -> str:
    """Guaranteed if every container's limits are its requests for cpu and memory; BestEffort if none says anything."""
    resources = [c.get("resources") or {} for c in (*spec.get("initContainers", ()), *spec.get("containers", ()))]
    if not any((r.get("limits") or r.get("requests")) for r in resources):
        return "BestEffort"
    for given in resources:
        limits, requests = given.get("limits") or {}, given.get("requests") or {}
        if any(name not in limits or requests.get(name, limits[name]) != limits[name] for name in ("cpu", "memory")):
            return "Burstable"
    return "Guaranteed"


def problems(body: Object, old: Object | None) -> Iterator[FieldError]:
    yield from spec_problems(body.get("spec") or {}, "spec")
    if old is not None and _fixed(old["spec"]) != _fixed(body["spec"]):
        yield forbidden_field("spec", f"pod updates may not change fields other than {MUTABLE}")


def _fixed(spec: Object) -> Object:
    """The part of a pod's spec that an update may not change. Binding and the token volume happen before it is running."""
    fixed = {name: value for name, value in spec.items() if name not in ("activeDeadlineSeconds", "tolerations")}
    for name in ("containers", "initContainers"):
        fixed[name] = [{k: v for k, v in c.items() if k != "image"} for c in fixed.get(name) or ()]
    fixed["schedulingGates"] = None
    return fixed


def spec_problems(spec: Object, path: str) -> Iterator[FieldError]:
    if not spec.get("containers"):
        yield required(f"{path}.containers")
    volumes = {volume.get("name") for volume in spec.get("volumes") or ()}
    yield from metadata.duplicate_names(spec.get("volumes"), f"{path}.volumes")
    if spec["restartPolicy"] not in ("Always", "OnFailure", "Never"):
        yield unsupported(f"{path}.restartPolicy", spec["restartPolicy"], ("Always", "OnFailure", "Never"))
    for kind in ("initContainers", "containers"):
        yield from metadata.duplicate_names(spec.get(kind), f"{path}.{kind}")
        for index, container in enumerate(spec.get(kind) or ()):
            yield from _container_problems(container, f"{path}.{kind}[{index}]", volumes)


def _container_problems(container: Object, path: str, volumes: set[Json]) -> Iterator[FieldError]:
    if not container.get("name"):
        yield required(f"{path}.name")
    if not container.get("image"):
        yield required(f"{path}.image")
    privileged = (container.get("securityContext") or {}).get("privileged")
    seen: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        at = f"{path}.volumeMounts[{index}]"
        if mount.get("name") not in volumes:
            yield FieldError(f"{at}.name", "FieldValueNotFound", f'Not found: "{mount.get("name", "")}"')
        if not mount.get("mountPath"):
            yield required(f"{at}.mountPath")
        elif mount["mountPath"] in seen:
            yield invalid(f"{at}.mountPath", mount["mountPath"], "must be unique")
        seen.add(mount.get("mountPath", ""))
        if mount.get("mountPropagation") == "Bidirectional" and not privileged:
            yield forbidden_field(
                f"{at}.mountPropagation", "Bidirectional mount propagation is available only to privileged containers"
            )
