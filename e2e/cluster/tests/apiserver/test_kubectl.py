"""Real kubectl, doing what its users do."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from .conftest import Client, Kubectl, Object
from .test_custom import definition

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: main, image: nginx, ports: [{containerPort: 80}], env: [{name: A, value: "1"}]}
"""


def shown(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_apply_makes_changes_and_leaves_alone(kubectl: Kubectl) -> None:
    assert kubectl("apply", "-f", "-", stdin=DEPLOYMENT) == "deployment.apps/web created\n"
    assert kubectl("apply", "-f", "-", stdin=DEPLOYMENT) == "deployment.apps/web unchanged\n"
    changed = DEPLOYMENT.replace('{name: A, value: "1"}', "{name: B, value: x}").replace("nginx", "nginx:2")
    assert kubectl("apply", "-f", "-", stdin=changed) == "deployment.apps/web configured\n"
    found = json.loads(kubectl("get", "deployment", "web", "-o", "json"))
    container = found["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "nginx:2" and container["env"] == [{"name": "B", "value": "x"}]
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=DEPLOYMENT)
    assert kubectl("diff", "-f", "-", stdin=DEPLOYMENT) == ""


def test_a_mistake_in_a_manifest_is_found_before_anything_is_made(kubectl: Kubectl) -> None:
    complaint = kubectl("apply", "-f", "-", stdin=DEPLOYMENT.replace("replicas", "replicaz"), fails=True)
    assert 'unknown field "spec.replicaz"' in complaint
    assert kubectl("get", "deployments") == ""


def test_a_list_is_taken_apart_and_its_items_are_checked(kubectl: Kubectl) -> None:
    """Before it sends the items of a List, kubectl holds them against the OpenAPI v2 document itself."""

    def listed(**second: object) -> Object:
        items: list[Object] = [{"metadata": {"name": "a"}, "data": {"k": "v"}}, {"metadata": {"name": "b"}, **second}]
        return {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "ConfigMap", **item} for item in items]}

    complaint = kubectl("apply", "-f", "-", stdin=listed(nonsense=1), fails=True)
    assert 'ValidationError(ConfigMap): unknown field "nonsense"' in complaint
    complaint = kubectl("apply", "-f", "-", stdin=listed(data=["k"]), fails=True)
    assert 'ConfigMap.data: got "array", expected "map"' in complaint
    assert kubectl("apply", "-f", "-", stdin=listed(immutable=True)) == "configmap/a created\nconfigmap/b created\n"
    deployment: Object = json.loads(kubectl("create", "deployment", "web", "--image=nginx", "--dry-run=client", "-o", "json"))
    assert kubectl("apply", "-f", "-", stdin={**listed(), "items": [deployment]}) == "deployment.apps/web created\n"


def test_scale_label_annotate_and_patch(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    assert kubectl("scale", "deployment/web", "--replicas=5") == "deployment.apps/web scaled\n"
    assert kubectl("label", "deployment/web", "tier=front") == "deployment.apps/web labeled\n"
    assert kubectl("annotate", "deployment/web", "note=hello") == "deployment.apps/web annotated\n"
    assert kubectl("set", "image", "deployment/web", "main=nginx:3") == "deployment.apps/web image updated\n"
    kubectl("patch", "deployment/web", "--type=json", '-p=[{"op":"replace","path":"/spec/paused","value":true}]')
    kubectl("patch", "deployment/web", "-p", '{"spec":{"minReadySeconds":1}}')
    found = json.loads(kubectl("get", "deployment", "web", "-o", "json"))
    assert found["spec"]["replicas"] == 5 and found["spec"]["paused"] is True
    assert found["metadata"]["labels"] == {"tier": "front"} and found["metadata"]["annotations"]["note"] == "hello"
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "nginx:3"
    kubectl("label", "deployment/web", "tier-")
    assert kubectl("get", "deployments", "-l", "tier", "-o", "name") == ""


def test_tables_say_what_is_up(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    kubectl("create", "configmap", "c", "--from-literal=a=b", "--from-literal=c=d")
    kubectl("create", "secret", "generic", "s", "--from-literal=password=x")
    head, row = shown(kubectl("get", "deployments"))
    assert head == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"] and row[:4] == ["web", "0/2", "0", "0"]
    head, row = shown(kubectl("get", "deploy", "-o", "wide"))
    assert head[-3:] == ["CONTAINERS", "IMAGES", "SELECTOR"] and row[-3:] == ["main", "nginx", "app=web"]
    assert shown(kubectl("get", "cm", "c"))[1][:2] == ["c", "2"]
    assert shown(kubectl("get", "secrets"))[1][:3] == ["s", "Opaque", "1"]
    assert "deployment.apps/web" in kubectl("get", "all")
    assert shown(kubectl("get", "ns", "default"))[1][:2] == ["default", "Active"]
    assert shown(kubectl("get", "pods", "--sort-by=.metadata.name", "-A", "--no-headers", "-l", "none=such")) == []


def test_objects_are_described(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=DEPLOYMENT)
    kubectl("run", "p", "--image=busybox")
    assert "StrategyType:           RollingUpdate" in kubectl("describe", "deployment", "web")
    assert "Image:        busybox" in kubectl("describe", "pod", "p")
    assert "run=p" in kubectl("describe", "pod", "p")


def test_deletion_waits_until_it_is_done(kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "c")
    assert kubectl("delete", "configmap", "c") == 'configmap "c" deleted\n'
    kubectl("create", "configmap", "c")
    kubectl("create", "configmap", "d")
    kubectl("delete", "configmaps", "--all")
    assert kubectl("get", "configmaps", "-o", "name") == ""
    assert "NotFound" in kubectl("delete", "configmap", "c", fails=True)
    kubectl("delete", "configmap", "c", "--ignore-not-found")


def test_a_condition_is_waited_for(kubectl: Kubectl) -> None:
    kubectl("run", "p", "--image=busybox")
    kubectl("patch", "pod", "p", "--subresource=status", "-p", '{"status":{"phase":"Running"}}')
    assert kubectl("wait", "pod/p", "--for=jsonpath={.status.phase}=Running", "--timeout=20s") == "pod/p condition met\n"
    assert "timed out" in kubectl("wait", "pod/p", "--for=condition=Ready", "--timeout=1s", fails=True)


def test_access_is_asked_for(kubectl: Kubectl, namespace: str) -> None:
    assert kubectl("auth", "can-i", "delete", "pods") == "yes\n"
    kubectl("create", "role", "reader", "--verb=get,list", "--resource=pods,configmaps")
    kubectl("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace}:default")
    account = f"--as=system:serviceaccount:{namespace}:default"
    assert kubectl("auth", "can-i", "list", "pods", account) == "yes\n"
    kubectl("auth", "can-i", "delete", "pods", account, fails=True)
    assert "pods" in kubectl("auth", "can-i", "--list", account)
    assert len(kubectl("create", "token", "default").split(".")) == 3
    assert kubectl("get", "pods", account) == ""
    assert "Forbidden" in kubectl("get", "secrets", account, fails=True)


def test_an_edit_is_stored(kubectl: Kubectl, tmp_path: Path) -> None:
    kubectl("create", "configmap", "c", "--from-literal=key=old")
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i s/old/new/ $1\n")
    editor.chmod(0o755)
    done = kubectl.run("edit", "configmap", "c", EDITOR=str(editor))
    assert done.stdout == "configmap/c edited\n"
    assert kubectl("get", "configmap", "c", "-o", "jsonpath={.data.key}") == "new"


def test_kustomizations_are_applied(kubectl: Kubectl, tmp_path: Path) -> None:
    (tmp_path / "deployment.yaml").write_text(DEPLOYMENT)
    (tmp_path / "kustomization.yaml").write_text(
        "resources: [deployment.yaml]\nnamePrefix: my-\nconfigMapGenerator: [{name: c, literals: [a=b]}]\n"
    )
    made = kubectl("apply", "-k", str(tmp_path))
    assert "deployment.apps/my-web created" in made and "configmap/my-c-" in made


@pytest.fixture
def gadgets(kubectl: Kubectl, namespace: str) -> str:
    """A custom kind of the test's own."""
    group = f"{namespace}.example.com"
    body = definition(group)
    kubectl("apply", "-f", "-", stdin=body)
    kubectl("wait", f"crd/widgets.{group}", "--for=condition=Established", "--timeout=20s")
    return group


def custom(group: str, **spec: object) -> Object:
    return {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 3, **spec}}


def test_custom_resources_are_as_good_as_built_in_ones(kubectl: Kubectl, gadgets: str) -> None:
    assert kubectl("apply", "-f", "-", stdin=custom(gadgets)) == f"widget.{gadgets}/w created\n"
    head, row = shown(kubectl("get", f"widgets.{gadgets}"))
    assert head == ["NAME", "SIZE", "AGE"] and row[:2] == ["w", "3"]
    assert "Size:   3" in kubectl("describe", f"widget.{gadgets}", "w")
    assert kubectl("patch", f"widget.{gadgets}", "w", "--type=merge", "-p", '{"spec":{"size":4}}').endswith("patched\n")
    assert kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=custom(gadgets)).endswith("serverside-applied\n")


def test_a_bad_custom_resource_is_refused_in_words(kubectl: Kubectl, gadgets: str) -> None:
    complaint = kubectl("apply", "-f", "-", stdin=custom(gadgets, first={}, second={}), fails=True)
    assert 'The Widget "w" is invalid: spec: Invalid value: first and second do not go together' in complaint
    assert 'unknown field "spec.sise"' in kubectl("apply", "-f", "-", stdin=custom(gadgets, sise=1), fails=True)


def test_schemas_are_explained(kubectl: Kubectl, gadgets: str) -> None:
    asked = ("explain", "widgets.spec", "--api-version", f"{gadgets}/v1")
    # A real server publishes the schema some time after the resource.
    deadline = time.monotonic() + 20
    while kubectl.run(*asked).returncode and time.monotonic() < deadline:
        time.sleep(0.2)
    text = kubectl(*asked)
    assert "size\t<integer> -required-" in text and "color\t<string>" in text
    assert "containerPort\t<integer> -required-" in kubectl("explain", "pod.spec.containers.ports")
    assert "replicas\t<integer>" in kubectl("explain", "deployment.spec")


def test_what_is_served_is_listed(kubectl: Kubectl, gadgets: str) -> None:
    rows = {row[0]: row for row in shown(kubectl("api-resources", "--api-group", gadgets))}
    assert rows["widgets"] == ["widgets", "wd", f"{gadgets}/v1", "true", "Widget"]
    assert "apps/v1" in kubectl("api-versions").split()
    assert "Server Version" in kubectl("version")


async def test_events_are_shown_with_what_they_are_about(kubectl: Kubectl, client: Client, core: str, namespace: str) -> None:
    kubectl("run", "p", "--image=busybox")
    uid = kubectl("get", "pod", "p", "-o", "jsonpath={.metadata.uid}")
    event = {
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": namespace, "uid": uid, "apiVersion": "v1"},
        "reason": "Tested",
        "message": "all is well",
        "type": "Normal",
        "source": {"component": "test"},
        "count": 1,
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    (await client.post(f"{core}/events", event)).ok()
    assert "all is well" in kubectl("describe", "pod", "p")
    assert shown(kubectl("get", "events"))[1][1:4] == ["Normal", "Tested", "pod/p"]
    assert "all is well" in kubectl("events", "--for=pod/p")
