"""The controllers on the local cluster, asked through kubectl as a user would."""

from __future__ import annotations

import time

import aiohttp
import pytest

from e2e.cluster.api import ApiError, Object, path
from e2e.cluster.tests.conftest import Space
from e2e.cluster.tests.test_pods import FOREVER, eventually, only, shell

SERVE = {
    "name": "main",
    "image": "python",
    "command": ["python3", "-m", "http.server", "8080", "--bind", "$(IP)"],
    "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
    "ports": [{"name": "http", "containerPort": 8080}],
}


def template(container: Object, **spec: object) -> Object:
    return {"metadata": {"labels": {"app": "x"}}, "spec": only(container, terminationGracePeriodSeconds=1, **spec)}


async def make(space: Space, group: str, resource: str, kind: str, **spec: object) -> Object:
    selector = {} if kind in {"Job", "Service"} else {"selector": {"matchLabels": {"app": "x"}}}
    body = {"apiVersion": group, "kind": kind, "metadata": {"name": "x"}, "spec": {**selector, **spec}}
    return await space.api.create(path(group, resource, namespace=space.name), body)


async def pods(space: Space) -> list[Object]:
    found = await space.api.list(space.pods(), labelSelector="app=x")
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


async def is_there(space: Space, url: str) -> bool:
    try:
        await space.api.get(url)
    except ApiError as error:
        if error.code == 404:
            return False
        raise
    return True


async def test_a_deployment_rolls_out_and_a_new_template_replaces_the_old(space: Space) -> None:
    await make(space, "apps/v1", "deployments", "Deployment", replicas=2, template=template(shell(FOREVER)))
    await space.kubectl("rollout", "status", "deployment/x", "--timeout=60s")
    first = {pod["metadata"]["name"] for pod in await pods(space)}
    await space.kubectl("set", "env", "deployment/x", "A=B")
    await space.kubectl("rollout", "status", "deployment/x", "--timeout=60s")
    second = {pod["metadata"]["name"] for pod in await pods(space)}
    assert (len(first), len(second)) == (2, 2)
    assert not first & second
    assert "2/2" in await space.kubectl("get", "deployment", "x")


async def test_a_roll_back_returns_to_the_former_replica_set(space: Space) -> None:
    await make(space, "apps/v1", "deployments", "Deployment", template=template(shell(FOREVER)))
    await space.kubectl("rollout", "status", "deployment/x", "--timeout=60s")
    await space.kubectl("set", "env", "deployment/x", "A=B")
    await space.kubectl("rollout", "status", "deployment/x", "--timeout=60s")
    await space.kubectl("rollout", "undo", "deployment/x")
    await space.kubectl("rollout", "status", "deployment/x", "--timeout=60s")
    sets = await space.api.list(path("apps/v1", "replicasets", namespace=space.name))
    assert len(sets) == 2
    assert [pod["spec"]["containers"][0].get("env") for pod in await pods(space)] == [None]


async def test_a_deployment_scales_and_a_deleted_pod_is_replaced(space: Space) -> None:
    await make(space, "apps/v1", "deployments", "Deployment", template=template(shell(FOREVER)))
    await space.kubectl("scale", "deployment/x", "--replicas=3")
    await space.kubectl("rollout", "status", "deployment/x", "--timeout=60s")
    gone = (await pods(space))[0]["metadata"]["name"]
    await space.kubectl("delete", "pod", gone, "--wait")

    async def replaced() -> bool:
        return len(await pods(space)) == 3

    await eventually(replaced)
    await space.kubectl("scale", "deployment/x", "--replicas=0")

    async def none() -> bool:
        return not await pods(space)

    await eventually(none)


async def test_a_daemon_set_has_one_pod_on_each_node_and_rolls(space: Space) -> None:
    await make(space, "apps/v1", "daemonsets", "DaemonSet", template=template(shell(FOREVER)))
    await space.kubectl("rollout", "status", "daemonset/x", "--timeout=60s")
    assert {pod["spec"]["nodeName"] for pod in await pods(space)} == set(space.cluster.nodes)
    await space.kubectl("set", "env", "daemonset/x", "A=B")
    await space.kubectl("rollout", "status", "daemonset/x", "--timeout=60s")
    assert all(pod["spec"]["containers"][0]["env"] for pod in await pods(space))


async def test_a_stateful_set_numbers_its_pods_and_makes_them_in_order(space: Space) -> None:
    await make(space, "apps/v1", "statefulsets", "StatefulSet", replicas=2, serviceName="x", template=template(shell(FOREVER)))
    await space.kubectl("rollout", "status", "statefulset/x", "--timeout=60s")
    assert [pod["metadata"]["name"] for pod in await pods(space)] == ["x-0", "x-1"]


async def serve(space: Space) -> Object:
    """A Service with two ready pods behind it."""
    probe = {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1}
    served = template({**SERVE, "readinessProbe": probe})
    await make(space, "apps/v1", "deployments", "Deployment", replicas=2, template=served)
    ports = [{"port": 80, "targetPort": "http"}]
    service = await make(space, "v1", "services", "Service", selector={"app": "x"}, ports=ports)
    await space.kubectl("rollout", "status", "deployment/x", "--timeout=60s")
    return service


async def test_endpoints_are_the_addresses_of_the_ready_pods(space: Space) -> None:
    if space.cluster.has_real_apiserver:
        pytest.skip("it takes no loopback addresses in endpoints")
    await serve(space)

    async def addresses() -> list[str]:
        slices = await space.api.list(path("discovery.k8s.io/v1", "endpointslices", namespace=space.name))
        ready = [each for part in slices for each in part["endpoints"] if each["conditions"]["ready"]]
        return sorted(each["addresses"][0] for each in ready)

    expected = sorted(pod["status"]["podIP"] for pod in await pods(space))

    async def complete() -> bool:
        return await addresses() == expected

    await eventually(complete)
    endpoints = await space.api.get(path("v1", "endpoints", namespace=space.name, name="x"))
    assert endpoints["subsets"][0]["ports"][0]["port"] == 8080


async def test_a_loopback_service_address_answers(space: Space) -> None:
    address = (await serve(space))["spec"]["clusterIP"]
    if not address.startswith("127."):
        pytest.skip("nobody listens on this API server's service addresses")
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}/") as answer:
        assert answer.status == 200


async def test_a_pod_that_fits_nowhere_says_why_and_goes_where_it_fits_later(space: Space) -> None:
    await space.run("p", only(shell(FOREVER), nodeSelector={"test/kind": space.name}))

    async def told() -> bool:
        conditions = (await space.pod("p"))["status"].get("conditions") or ()
        expected = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
        return any(each.get("reason") == "Unschedulable" and each["message"] == expected for each in conditions)

    await eventually(told)
    await space.cluster.kubectl("label", "node", "node-2", f"test/kind={space.name}", "--overwrite")
    await space.wait("p")
    assert (await space.pod("p"))["spec"]["nodeName"] == "node-2"


async def test_a_cordoned_node_gets_no_new_pods_but_daemons(space: Space) -> None:
    await space.cluster.kubectl("cordon", "node-1")
    try:
        await make(space, "apps/v1", "deployments", "Deployment", replicas=3, template=template(shell(FOREVER)))
        await space.kubectl("rollout", "status", "deployment/x", "--timeout=60s")
        assert {pod["spec"]["nodeName"] for pod in await pods(space)} == {"node-2"}
    finally:
        await space.cluster.kubectl("uncordon", "node-1")


def owned_config_map(name: str, owner: Object, *, blocks: bool = False) -> Object:
    reference = {key: owner[key] for key in ("apiVersion", "kind")}
    reference |= {key: owner["metadata"][key] for key in ("name", "uid")}
    metadata = {"name": name, "ownerReferences": [{**reference, "blockOwnerDeletion": blocks}]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


async def test_dependents_follow_their_owner_and_orphans_stay(space: Space) -> None:
    url = path("v1", "configmaps", namespace=space.name)
    for how, stays in (("background", False), ("foreground", False), ("orphan", True)):
        owner = await space.api.create(url, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": how}})
        await space.api.create(url, owned_config_map(f"{how}-child", owner, blocks=True))
        await space.kubectl("delete", "configmap", how, f"--cascade={how}", "--wait", "--timeout=60s")
        if stays:
            child = await space.api.get(f"{url}/{how}-child")
            assert not child["metadata"].get("ownerReferences")
        elif how == "foreground":
            assert not await is_there(space, f"{url}/{how}-child")
        else:

            async def gone(name: str = f"{how}-child") -> bool:
                return not await is_there(space, f"{url}/{name}")

            await eventually(gone)


async def test_an_object_with_two_owners_stays_until_both_are_gone(space: Space) -> None:
    url = path("v1", "configmaps", namespace=space.name)
    owners = [
        await space.api.create(url, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}) for name in ("a", "b")
    ]
    child = owned_config_map("child", owners[0])
    child["metadata"]["ownerReferences"] += owned_config_map("child", owners[1])["metadata"]["ownerReferences"]
    await space.api.create(url, child)
    await space.kubectl("delete", "configmap", "a")
    marker = await space.api.create(url, owned_config_map("marker", owners[0]))  # what is collected after `a` has gone

    async def marker_gone() -> bool:
        return not await is_there(space, f"{url}/marker")

    assert marker
    await eventually(marker_gone)
    assert await is_there(space, f"{url}/child")
    await space.kubectl("delete", "configmap", "b")

    async def gone() -> bool:
        return not await is_there(space, f"{url}/child")

    await eventually(gone)


async def test_a_namespace_takes_all_that_it_holds_along_but_waits_for_finalizers(space: Space) -> None:
    name = f"{space.name}-inner"
    await space.cluster.kubectl("create", "namespace", name)
    url = path("v1", "configmaps", namespace=name)
    held = {"name": "held", "finalizers": ["test/hold"]}
    await space.api.create(url, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": held})
    await space.cluster.kubectl("delete", "namespace", name, "--wait=false")

    async def terminating() -> bool:
        found = await space.api.get(path("v1", "namespaces", name=name))
        conditions = (found.get("status") or {}).get("conditions") or ()
        return any("configmaps has 1 resource instances" in each["message"] for each in conditions)

    await eventually(terminating)
    await space.api.patch(f"{url}/held", {"metadata": {"finalizers": None}})
    await space.cluster.kubectl("wait", f"namespace/{name}", "--for=delete", "--timeout=60s")


async def test_a_namespace_keeps_everything_else_until_its_pods_are_gone(space: Space) -> None:
    name = f"{space.name}-ordered"
    await space.cluster.kubectl("create", "namespace", name)
    config = path("v1", "configmaps", namespace=name)
    pods = path("v1", "pods", namespace=name)
    await space.api.create(config, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}})
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "own"}}
    await space.api.create(path("v1", "serviceaccounts", namespace=name), account)
    held = {"name": "held", "finalizers": ["test/hold"]}
    spec = {"serviceAccountName": "own", "containers": [{"name": "c", "image": "i"}], "nodeName": "nowhere"}
    await space.api.create(pods, {"apiVersion": "v1", "kind": "Pod", "metadata": held, "spec": spec})
    await space.cluster.kubectl("delete", "namespace", name, "--wait=false")

    async def told() -> bool:
        found = await space.api.get(path("v1", "namespaces", name=name))
        return any("pods has 1" in each["message"] for each in (found.get("status") or {}).get("conditions") or ())

    await eventually(told)
    kept = await space.api.get(f"{config}/kept")
    assert "deletionTimestamp" not in kept["metadata"]
    await space.api.patch(f"{pods}/held", {"metadata": {"finalizers": None}})
    await space.cluster.kubectl("wait", f"namespace/{name}", "--for=delete", "--timeout=60s")


async def test_each_namespace_has_a_service_account_and_the_clusters_ca(space: Space) -> None:
    found = await space.kubectl("get", "serviceaccount,configmap", "-o", "name")
    assert {"serviceaccount/default", "configmap/kube-root-ca.crt"} <= set(found.split())


async def test_the_first_roll_out_of_a_small_deployment_takes_a_few_seconds(space: Space) -> None:
    begin = time.monotonic()
    await make(space, "apps/v1", "deployments", "Deployment", template=template(shell(FOREVER)))
    await space.kubectl("rollout", "status", "deployment/x", "--timeout=60s")
    assert time.monotonic() - begin < 30
