"""Objects as `kubectl get` prints them: the columns of each kind, and what stands in them.

Columns with a priority show with `-o wide` only. Custom resources bring their columns along; kinds that are not in the table show
name and age.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from e2e.cluster.apiserver import jsonpath
from e2e.cluster.apiserver.resources import Resource
from e2e.cluster.apiserver.status import Json, Object

NONE, UNSET, UNKNOWN = "<none>", "<unset>", "<unknown>"
Cell = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    value: Callable[[Object], Cell]
    type: str = "string"
    priority: int = 0
    format: str = ""
    description: str = ""

    def definition(self) -> Object:
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


def columns(resource: Resource) -> list[Object]:
    return [column.definition() for column in _columns(resource)]


def cells(resource: Resource, body: Object) -> list[Cell]:
    return [column.value(body) for column in _columns(resource)]


def _columns(resource: Resource) -> tuple[Column, ...]:
    if resource.custom is not None:
        return _custom_columns(resource.custom)
    return COLUMNS.get(resource.storage, (NAME, AGE))


def _custom_columns(version: Object) -> tuple[Column, ...]:
    given = version.get("additionalPrinterColumns")
    return (NAME, *(_custom_column(entry) for entry in given)) if given else (NAME, AGE)


def _custom_column(entry: Object) -> Column:
    kind, path = entry.get("type", "string"), entry["jsonPath"]

    def value(body: Object) -> Cell:
        found = jsonpath.find(body, path)
        return _custom_cell(found[0], kind) if found else None

    texts = (entry.get("format", ""), entry.get("description", ""))
    return Column(entry["name"], value, kind, entry.get("priority", 0), *texts)


def _custom_cell(value: Json, kind: str) -> Cell:
    match kind, value:
        case _, None:
            return None
        case "date", str():
            return age_since(value)
        case "integer", int() | float():
            return int(value)
        case "number" | "boolean", int() | float():
            return value
        case "string", bool():
            return str(value).lower()
        case "string", dict() | list():
            return json.dumps(value, separators=(",", ":"))
        case "string", _:
            return str(value)
    return None


def age_since(moment: str | None) -> str:
    if not moment:
        return UNKNOWN
    began = datetime.datetime.fromisoformat(moment.replace("Z", "+00:00"))
    return duration((datetime.datetime.now(datetime.UTC) - began).total_seconds())


def duration(seconds: float) -> str:
    """As kubectl writes it: precise when short, coarse when long (`95s`, `4m30s`, `3h`, `2d4h`, `5d`)."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    total = max(total, 0)
    minutes, hours, days = total // 60, total // 3600, total // 86400
    if total < 120:
        return f"{total}s"
    if minutes < 10:
        return f"{minutes}m{total % 60}s" if total % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 730:
        return f"{days}d"
    years, rest = divmod(days, 365)
    return f"{years}y{rest}d" if years < 8 and rest else f"{years}y"


def _at(*path: str, default: Cell = "") -> Callable[[Object], Cell]:
    def value(body: Object) -> Cell:
        node: Json = body
        for step in path:
            node = node.get(step) if isinstance(node, dict) else None
        return default if node is None else node

    return value


def _count(*path: str) -> Callable[[Object], Cell]:
    return lambda body: len(_at(*path, default=())(body) or ())  # type: ignore[arg-type]


def _listed(values: Iterable[str], *, most: int = 0) -> str:
    names = list(values)
    if most and len(names) > most:
        return f"{','.join(names[:most])} + {len(names) - most} more..."
    return ",".join(names) or NONE


def _spec(body: Object) -> Object:
    return body.get("spec") or {}


def _status(body: Object) -> Object:
    return body.get("status") or {}


def _labels(selector: Object | None) -> str:
    """A selector in the form that `-l` takes."""
    if not selector:
        return NONE
    if "matchLabels" not in selector and "matchExpressions" not in selector:
        return _listed(f"{key}={value}" for key, value in selector.items())
    parts = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for term in selector.get("matchExpressions") or ():
        values = ",".join(term.get("values") or ())
        match term["operator"]:
            case "Exists":
                parts.append(term["key"])
            case "DoesNotExist":
                parts.append(f"!{term['key']}")
            case operator:
                parts.append(f"{term['key']} {operator.lower()} ({values})")
    return _listed(parts)


def _containers(body: Object) -> list[Object]:
    spec = _spec(body)
    containers: list[Object] = ((spec.get("template") or {}).get("spec") or spec).get("containers") or []
    return containers


def _pod_ready(body: Object) -> Cell:
    sidecars = {c["name"] for c in _spec(body).get("initContainers") or () if c.get("restartPolicy") == "Always"}
    status = _status(body)
    statuses = [s for s in status.get("initContainerStatuses") or () if s["name"] in sidecars]
    statuses += status.get("containerStatuses") or []
    wanted = len(_spec(body).get("containers") or ()) + len(sidecars)
    return f"{sum(bool(s.get('ready')) for s in statuses)}/{wanted}"


def _pod_status(body: Object) -> Cell:
    """The one word that tells most: what init containers wait for, what containers wait for or ended with, the phase."""
    status = _status(body)
    phase = status.get("reason") or status.get("phase") or "Unknown"
    reason = _init_reason(body) or _container_reason(status, phase)
    if body["metadata"].get("deletionTimestamp"):
        return "Unknown" if status.get("reason") == "NodeLost" else reason if phase in ("Succeeded", "Failed") else "Terminating"
    return reason


def _init_reason(body: Object) -> str:
    specs = {c["name"]: c for c in _spec(body).get("initContainers") or ()}
    statuses = _status(body).get("initContainerStatuses") or ()
    for index, status in enumerate(statuses):
        state = status.get("state") or {}
        ended = state.get("terminated")
        is_sidecar = (specs.get(status["name"]) or {}).get("restartPolicy") == "Always"
        if (ended and ended.get("exitCode") == 0) or (is_sidecar and status.get("started")):
            continue
        if ended:
            return f"Init:{ended.get('reason') or _exit(ended)}"
        waiting = (state.get("waiting") or {}).get("reason")
        if waiting and waiting != "PodInitializing":
            return f"Init:{waiting}"
        return f"Init:{index}/{len(specs)}"
    return ""


def _container_reason(status: Object, phase: str) -> str:
    reason, running = phase, False
    for container in reversed(status.get("containerStatuses") or ()):
        state = container.get("state") or {}
        ended = state.get("terminated")
        if waiting := (state.get("waiting") or {}).get("reason"):
            reason = waiting
        elif ended:
            reason = ended.get("reason") or _exit(ended)
        elif container.get("ready") and state.get("running"):
            running = True
    if reason == "Completed" and running:
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
        return "Running" if ready else "NotReady"
    return reason


def _exit(ended: Object) -> str:
    return f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode', 0)}"


def _pod_restarts(body: Object) -> Cell:
    statuses = _status(body).get("containerStatuses") or []
    count = sum(status.get("restartCount", 0) for status in statuses)
    ends = [((status.get("lastState") or {}).get("terminated") or {}).get("finishedAt") for status in statuses]
    last = max(filter(None, ends), default=None)
    return f"{count} ({age_since(last)} ago)" if count and last else str(count)


def _node_status(body: Object) -> Cell:
    conditions = {c["type"]: c["status"] for c in _status(body).get("conditions") or ()}
    words = [{"True": "Ready", "False": "NotReady"}.get(conditions.get("Ready", ""), "NotReady" if conditions else "Unknown")]
    if _spec(body).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _node_roles(body: Object) -> Cell:
    prefix = "node-role.kubernetes.io/"
    return _listed(key.removeprefix(prefix) for key in body["metadata"].get("labels") or {} if key.startswith(prefix))


def _node_address(kind: str) -> Callable[[Object], Cell]:
    def value(body: Object) -> Cell:
        addresses = _status(body).get("addresses") or ()
        return next((entry["address"] for entry in addresses if entry["type"] == kind), NONE)

    return value


def _service_ports(body: Object) -> Cell:
    return _listed(f"{port['port']}/{port.get('protocol', 'TCP')}" for port in _spec(body).get("ports") or ())


def _endpoint_list(body: Object) -> Cell:
    found = [
        f"{address['ip']}:{port['port']}"
        for subset in body.get("subsets") or ()
        for address in subset.get("addresses") or ()
        for port in subset.get("ports") or ({"port": ""},)
    ]
    return _listed(found, most=3)


def _slice_ports(body: Object) -> Cell:
    return _listed((str(port["port"]) for port in body.get("ports") or ()), most=3)


def _slice_addresses(body: Object) -> Cell:
    return _listed((a for endpoint in body.get("endpoints") or () for a in endpoint.get("addresses") or ()), most=3)


def _event_object(body: Object) -> Cell:
    involved = body.get("involvedObject") or {}
    return f"{involved.get('kind', '').lower()}/{involved.get('name', '')}"


def _event_seen(body: Object) -> Cell:
    return age_since(body.get("lastTimestamp") or body.get("eventTime") or body.get("firstTimestamp"))


def _event_first_seen(body: Object) -> Cell:
    return age_since(body.get("firstTimestamp") or body.get("eventTime"))


def _event_source(body: Object) -> Cell:
    source = body.get("source") or {}
    parts = (source.get("component") or body.get("reportingComponent"), source.get("host"))
    return ", ".join(filter(None, parts))


def _subjects(kind: str) -> Callable[[Object], Cell]:
    def value(body: Object) -> Cell:
        found = [s for s in body.get("subjects") or () if s["kind"] == kind]
        return ", ".join(f"{s['namespace']}/{s['name']}" if kind == "ServiceAccount" else s["name"] for s in found)

    return value


def _role(body: Object) -> Cell:
    return f"{body['roleRef']['kind']}/{body['roleRef']['name']}"


def _volume_claim_capacity(body: Object) -> Cell:
    return str((_status(body).get("capacity") or {}).get("storage", ""))


def _modes(body: Object) -> Cell:
    short = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}
    return ",".join(short.get(mode, mode) for mode in _spec(body).get("accessModes") or ())


def _flag(*path: str) -> Callable[[Object], Cell]:
    return lambda body: bool(_at(*path, default=False)(body))


def _number(name: str, *path: str, priority: int = 0) -> Column:
    return Column(name, _at(*path, default=0), "integer", priority)


NAME = Column("Name", lambda body: str(body["metadata"].get("name", "")), format="name")
AGE = Column("Age", lambda body: age_since(body["metadata"].get("creationTimestamp")))
CREATED = Column("Created At", lambda body: str(body["metadata"].get("creationTimestamp", "")), "date")
CONTAINERS = Column("Containers", lambda body: _listed(c["name"] for c in _containers(body)), priority=1)
IMAGES = Column("Images", lambda body: _listed(c.get("image", "") for c in _containers(body)), priority=1)
SELECTOR = Column("Selector", lambda body: _labels(_spec(body).get("selector")), priority=1)
ROLE_BINDING = (
    NAME,
    Column("Role", _role),
    AGE,
    Column("Users", _subjects("User"), priority=1),
    Column("Groups", _subjects("Group"), priority=1),
    Column("ServiceAccounts", _subjects("ServiceAccount"), priority=1),
)

COLUMNS: dict[str, tuple[Column, ...]] = {
    "/configmaps": (NAME, Column("Data", lambda b: len(b.get("data") or ()) + len(b.get("binaryData") or ())), AGE),
    "/endpoints": (NAME, Column("Endpoints", _endpoint_list), AGE),
    "/events": (
        Column("Last Seen", _event_seen),
        Column("Type", _at("type")),
        Column("Reason", _at("reason")),
        Column("Object", _event_object),
        Column("Subobject", _at("involvedObject", "fieldPath"), priority=1),
        Column("Source", _event_source, priority=1),
        Column("Message", lambda body: str(body.get("message", "")).strip()),
        Column("First Seen", _event_first_seen, priority=1),
        Column("Count", _at("count", default=1), priority=1),
        Column("Name", lambda body: str(body["metadata"]["name"]), priority=1, format="name"),
    ),
    "/namespaces": (NAME, Column("Status", _at("status", "phase")), AGE),
    "/nodes": (
        NAME,
        Column("Status", _node_status),
        Column("Roles", _node_roles),
        AGE,
        Column("Version", _at("status", "nodeInfo", "kubeletVersion")),
        Column("Internal-IP", _node_address("InternalIP"), priority=1),
        Column("External-IP", _node_address("ExternalIP"), priority=1),
        Column("OS-Image", _at("status", "nodeInfo", "osImage", default=UNKNOWN), priority=1),
        Column("Kernel-Version", _at("status", "nodeInfo", "kernelVersion", default=UNKNOWN), priority=1),
        Column("Container-Runtime", _at("status", "nodeInfo", "containerRuntimeVersion", default=UNKNOWN), priority=1),
    ),
    "/persistentvolumeclaims": (
        NAME,
        Column("Status", _at("status", "phase")),
        Column("Volume", _at("spec", "volumeName")),
        Column("Capacity", _volume_claim_capacity),
        Column("Access Modes", _modes),
        Column("StorageClass", _at("spec", "storageClassName")),
        Column("VolumeAttributesClass", _at("spec", "volumeAttributesClassName", default=UNSET)),
        AGE,
        Column("VolumeMode", _at("spec", "volumeMode"), priority=1),
    ),
    "/pods": (
        NAME,
        Column("Ready", _pod_ready),
        Column("Status", _pod_status),
        Column("Restarts", _pod_restarts),
        AGE,
        Column("IP", _at("status", "podIP", default=NONE), priority=1),
        Column("Node", _at("spec", "nodeName", default=NONE), priority=1),
        Column("Nominated Node", _at("status", "nominatedNodeName", default=NONE), priority=1),
        Column("Readiness Gates", lambda body: NONE, priority=1),
    ),
    "/secrets": (NAME, Column("Type", _at("type")), Column("Data", _count("data"), "integer"), AGE),
    "/serviceaccounts": (NAME, Column("Secrets", _count("secrets"), "integer"), AGE),
    "/services": (
        NAME,
        Column("Type", _at("spec", "type")),
        Column("Cluster-IP", _at("spec", "clusterIP", default=NONE)),
        Column("External-IP", lambda body: _listed(_spec(body).get("externalIPs") or ())),
        Column("Port(s)", _service_ports),
        AGE,
        SELECTOR,
    ),
    "admissionregistration.k8s.io/mutatingwebhookconfigurations": (NAME, Column("Webhooks", _count("webhooks"), "integer"), AGE),
    "admissionregistration.k8s.io/validatingwebhookconfigurations": (NAME, Column("Webhooks", _count("webhooks"), "integer"), AGE),
    "apiextensions.k8s.io/customresourcedefinitions": (NAME, CREATED),
    "apps/controllerrevisions": (NAME, _number("Revision", "revision"), AGE),
    "apps/daemonsets": (
        NAME,
        _number("Desired", "status", "desiredNumberScheduled"),
        _number("Current", "status", "currentNumberScheduled"),
        _number("Ready", "status", "numberReady"),
        _number("Up-to-date", "status", "updatedNumberScheduled"),
        _number("Available", "status", "numberAvailable"),
        Column("Node Selector", lambda b: _labels((_spec(b).get("template") or {}).get("spec", {}).get("nodeSelector"))),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ),
    "apps/deployments": (
        NAME,
        Column("Ready", lambda body: f"{_status(body).get('readyReplicas', 0)}/{_spec(body).get('replicas', 0)}"),
        _number("Up-to-date", "status", "updatedReplicas"),
        _number("Available", "status", "availableReplicas"),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ),
    "apps/replicasets": (
        NAME,
        _number("Desired", "spec", "replicas"),
        _number("Current", "status", "replicas"),
        _number("Ready", "status", "readyReplicas"),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ),
    "apps/statefulsets": (
        NAME,
        Column("Ready", lambda body: f"{_status(body).get('readyReplicas', 0)}/{_spec(body).get('replicas', 0)}"),
        AGE,
        CONTAINERS,
        IMAGES,
    ),
    "batch/jobs": (
        NAME,
        Column("Status", lambda body: next((c["type"] for c in _status(body).get("conditions") or ()), "Running")),
        Column("Completions", lambda body: f"{_status(body).get('succeeded', 0)}/{_spec(body).get('completions', 1)}"),
        AGE,
        CONTAINERS,
        IMAGES,
    ),
    "coordination.k8s.io/leases": (NAME, Column("Holder", _at("spec", "holderIdentity")), AGE),
    "discovery.k8s.io/endpointslices": (
        NAME,
        Column("AddressType", _at("addressType")),
        Column("Ports", _slice_ports),
        Column("Endpoints", _slice_addresses),
        AGE,
    ),
    "policy/poddisruptionbudgets": (
        NAME,
        Column("Min Available", _at("spec", "minAvailable", default="N/A")),
        Column("Max Unavailable", _at("spec", "maxUnavailable", default="N/A")),
        _number("Allowed Disruptions", "status", "disruptionsAllowed"),
        AGE,
    ),
    "rbac.authorization.k8s.io/clusterrolebindings": ROLE_BINDING,
    "rbac.authorization.k8s.io/clusterroles": (NAME, CREATED),
    "rbac.authorization.k8s.io/rolebindings": ROLE_BINDING,
    "rbac.authorization.k8s.io/roles": (NAME, CREATED),
    "scheduling.k8s.io/priorityclasses": (
        NAME,
        _number("Value", "value"),
        Column("Global-Default", _flag("globalDefault"), "boolean"),
        AGE,
        Column("PreemptionPolicy", _at("preemptionPolicy")),
    ),
    "storage.k8s.io/csidrivers": (
        NAME,
        Column("AttachRequired", _flag("spec", "attachRequired"), "boolean"),
        Column("PodInfoOnMount", _flag("spec", "podInfoOnMount"), "boolean"),
        Column("StorageCapacity", _flag("spec", "storageCapacity"), "boolean"),
        Column("TokenRequests", lambda b: _listed(t["audience"] for t in _spec(b).get("tokenRequests") or ()) or UNSET),
        Column("RequiresRepublish", _flag("spec", "requiresRepublish"), "boolean"),
        Column("Modes", lambda body: _listed(_spec(body).get("volumeLifecycleModes") or ())),
        AGE,
    ),
    "storage.k8s.io/csinodes": (NAME, Column("Drivers", _count("spec", "drivers"), "integer"), AGE),
    "storage.k8s.io/storageclasses": (
        NAME,
        Column("Provisioner", _at("provisioner")),
        Column("ReclaimPolicy", _at("reclaimPolicy")),
        Column("VolumeBindingMode", _at("volumeBindingMode")),
        Column("AllowVolumeExpansion", _flag("allowVolumeExpansion"), "boolean"),
        AGE,
    ),
}
COLUMNS["events.k8s.io/events"] = COLUMNS["/events"]
