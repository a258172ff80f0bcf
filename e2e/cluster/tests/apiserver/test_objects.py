"""Objects come, change and go as on any Kubernetes API server."""

from __future__ import annotations

import asyncio

from .conftest import Client, Object, pod


async def test_a_new_object_gets_what_only_the_server_sets(client: Client, core: str) -> None:
    made = (await client.post(f"{core}/configmaps", {"metadata": {"name": "a", "uid": "mine"}, "data": {"k": "v"}})).ok()
    assert made["metadata"]["uid"] != "mine"
    assert made["metadata"]["creationTimestamp"].endswith("Z")
    assert made["metadata"]["resourceVersion"].isdecimal()
    assert made["apiVersion"] == "v1" and made["kind"] == "ConfigMap"
    assert (await client.get(f"{core}/configmaps/a")).ok()["data"] == {"k": "v"}


async def test_a_name_is_given_once(client: Client, core: str) -> None:
    (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}})).ok()
    refusal = (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}})).refused(409, 'configmaps "a" already exists')
    assert refusal["reason"] == "AlreadyExists"


async def test_a_name_is_made_up_from_its_beginning(client: Client, core: str) -> None:
    made = (await client.post(f"{core}/configmaps", {"metadata": {"generateName": "part-"}})).ok()
    assert made["metadata"]["name"].startswith("part-") and len(made["metadata"]["name"]) == 10


async def test_a_bad_name_is_explained(client: Client, core: str) -> None:
    refusal = (await client.post(f"{core}/configmaps", {"metadata": {"name": "No_Good"}})).refused(
        422, 'ConfigMap "No_Good" is invalid: metadata.name: Invalid value: "No_Good": a lowercase RFC 1123 subdomain must consist'
    )
    assert refusal["reason"] == "Invalid"
    assert refusal["details"]["causes"][0]["field"] == "metadata.name"


async def test_what_is_not_there_is_not_found(client: Client, core: str) -> None:
    refusal = (await client.get(f"{core}/configmaps/none")).refused(404, 'configmaps "none" not found')
    assert refusal["details"] == {"name": "none", "kind": "configmaps"}
    assert (await client.get("/apis/no.such.group/v1/things")).status == 404


async def test_what_cannot_be_done_is_not_allowed(client: Client, core: str) -> None:
    (await client.post(f"{core}/pods", pod("p"))).ok()
    for answer in (
        await client.delete(f"{core}/pods/p/status"),
        await client.get("/apis/authorization.k8s.io/v1/subjectaccessreviews"),
        await client.put(f"{core}/pods", pod("p")),
    ):
        assert answer.status == 405


async def test_an_update_of_an_old_version_is_a_conflict(client: Client, core: str) -> None:
    first = (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}})).ok()
    second = (await client.put(f"{core}/configmaps/a", {**first, "data": {"n": "1"}})).ok()
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    refusal = (await client.put(f"{core}/configmaps/a", {**first, "data": {"n": "2"}})).refused(
        409, 'Operation cannot be fulfilled on configmaps "a": the object has been modified'
    )
    assert refusal["reason"] == "Conflict"


async def test_an_update_that_names_no_version_is_made(client: Client, core: str) -> None:
    (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}})).ok()
    changed = (await client.put(f"{core}/configmaps/a", {"metadata": {"name": "a"}, "data": {"x": "y"}})).ok()
    assert changed["data"] == {"x": "y"}


async def test_an_update_that_changes_nothing_makes_no_version(client: Client, core: str) -> None:
    first = (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}, "data": {"k": "v"}})).ok()
    again = (await client.put(f"{core}/configmaps/a", first)).ok()
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_another_uid_is_a_conflict(client: Client, core: str) -> None:
    first = (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}})).ok()
    other = {**first, "metadata": {**first["metadata"], "uid": "other"}}
    (await client.put(f"{core}/configmaps/a", other)).refused(409, "Precondition failed: UID in precondition: other")


async def test_a_patch_cannot_make_an_object_another(client: Client, core: str) -> None:
    (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}})).ok()
    other = {"metadata": {"name": "a", "uid": "00000000-0000-0000-0000-000000000000"}}
    applied = {"apiVersion": "v1", "kind": "ConfigMap", **other}
    for refused in (
        await client.merge_patch(f"{core}/configmaps/a", other),
        await client.strategic_patch(f"{core}/configmaps/a", other),
        await client.json_patch(f"{core}/configmaps/a", {"op": "replace", "path": "/metadata/uid", "value": "another"}),
        await client.apply(f"{core}/configmaps/a", applied, manager="m"),
    ):
        status = refused.refused(422, "metadata.uid: Invalid value", "field is immutable")
        assert {cause["field"] for cause in status["details"]["causes"]} == {"metadata.uid"}


async def test_writers_that_race_lose_no_change(client: Client, core: str) -> None:
    (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}, "data": {"first": "0"}})).ok()
    patches = (client.merge_patch(f"{core}/configmaps/a", {"data": {f"k{n}": "v"}}) for n in range(20))
    for answer in await asyncio.gather(*patches):
        answer.ok()
    assert len((await client.get(f"{core}/configmaps/a")).ok()["data"]) == 21


async def test_a_dry_run_leaves_nothing(client: Client, core: str) -> None:
    made = (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}}, dryRun="All")).ok()
    assert made["metadata"]["uid"]
    assert (await client.get(f"{core}/configmaps/a")).status == 404
    (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}})).ok()
    (await client.delete(f"{core}/configmaps/a", dryRun="All")).ok()
    (await client.get(f"{core}/configmaps/a")).ok()


async def test_deletion_answers_with_what_was_deleted(client: Client, core: str) -> None:
    made = (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}})).ok()
    status = (await client.delete(f"{core}/configmaps/a")).ok()
    assert status["status"] == "Success" and status["details"]["uid"] == made["metadata"]["uid"]
    assert (await client.get(f"{core}/configmaps/a")).status == 404


async def test_deletion_can_insist_on_a_uid(client: Client, core: str) -> None:
    made = (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}})).ok()
    other = {"preconditions": {"uid": "other"}}
    (await client.delete(f"{core}/configmaps/a", other)).refused(409, "the UID in the precondition (other) does not match")
    (await client.delete(f"{core}/configmaps/a", {"preconditions": {"uid": made["metadata"]["uid"]}})).ok()


async def test_a_finalizer_holds_an_object_until_it_is_taken_off(client: Client, core: str) -> None:
    body = {"metadata": {"name": "a", "finalizers": ["example.com/hold"]}}
    (await client.post(f"{core}/configmaps", body)).ok()
    going = (await client.delete(f"{core}/configmaps/a")).ok()
    assert going["metadata"]["deletionTimestamp"]
    assert (await client.get(f"{core}/configmaps/a")).ok()["metadata"]["deletionGracePeriodSeconds"] == 0
    more = [{"op": "add", "path": "/metadata/finalizers/-", "value": "example.com/late"}]
    (await client.json_patch(f"{core}/configmaps/a", *more)).refused(
        422, "no new finalizers can be added if the object is being deleted"
    )
    (await client.json_patch(f"{core}/configmaps/a", {"op": "remove", "path": "/metadata/finalizers"})).ok()
    assert (await client.get(f"{core}/configmaps/a")).status == 404


async def test_foreground_deletion_waits_for_the_garbage_collector(client: Client, core: str) -> None:
    (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}})).ok()
    going = (await client.delete(f"{core}/configmaps/a", {"propagationPolicy": "Foreground"})).ok()
    assert going["metadata"]["finalizers"] == ["foregroundDeletion"]


async def test_a_pod_on_a_node_ends_gracefully(client: Client, core: str) -> None:
    (await client.post(f"{core}/pods", pod("p", nodeName="n1", terminationGracePeriodSeconds=7))).ok()
    going = (await client.delete(f"{core}/pods/p")).ok()
    assert going["metadata"]["deletionGracePeriodSeconds"] == 7
    assert (await client.get(f"{core}/pods/p")).ok()["metadata"]["deletionTimestamp"]
    (await client.delete(f"{core}/pods/p", {"gracePeriodSeconds": 0})).ok()
    assert (await client.get(f"{core}/pods/p")).status == 404


async def test_a_pod_that_no_node_has_is_gone_at_once(client: Client, core: str) -> None:
    (await client.post(f"{core}/pods", pod("p"))).ok()
    (await client.delete(f"{core}/pods/p")).ok()
    assert (await client.get(f"{core}/pods/p")).status == 404


async def test_a_collection_is_deleted_by_label(client: Client, core: str) -> None:
    for name, label in (("a", "x"), ("b", "x"), ("c", "y")):
        (await client.post(f"{core}/configmaps", {"metadata": {"name": name, "labels": {"l": label}}})).ok()
    (await client.delete(f"{core}/configmaps", labelSelector="l=x")).ok()
    left = (await client.get(f"{core}/configmaps", labelSelector="l")).ok()["items"]
    assert [item["metadata"]["name"] for item in left] == ["c"]


async def test_status_is_written_apart(client: Client, core: str) -> None:
    (await client.post(f"{core}/pods", {**pod("p"), "status": {"phase": "Running"}})).ok()
    found = (await client.get(f"{core}/pods/p")).ok()
    assert found["status"]["phase"] == "Pending"
    (await client.put(f"{core}/pods/p/status", {**found, "status": {**found["status"], "phase": "Running"}})).ok()
    (await client.put(f"{core}/pods/p", {**found, "metadata": {"name": "p", "labels": {"a": "b"}}})).ok()
    after = (await client.get(f"{core}/pods/p")).ok()
    assert after["status"]["phase"] == "Running" and after["metadata"]["labels"] == {"a": "b"}


async def test_a_pod_is_filled_in_with_defaults(client: Client, core: str) -> None:
    (await client.post(f"{core}/pods", pod("p"))).ok()
    found = (await client.get(f"{core}/pods/p")).ok()
    spec, container = found["spec"], found["spec"]["containers"][0]
    assert (spec["restartPolicy"], spec["dnsPolicy"], spec["terminationGracePeriodSeconds"]) == ("Always", "ClusterFirst", 30)
    assert container["imagePullPolicy"] == "Always" and container["terminationMessagePath"] == "/dev/termination-log"
    assert spec["enableServiceLinks"] is True and spec["schedulerName"] == "default-scheduler"
    assert {t["key"] for t in spec["tolerations"]} == {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
    assert found["status"] == {"phase": "Pending", "qosClass": "BestEffort"}


async def test_a_pods_containers_cannot_be_changed(client: Client, core: str) -> None:
    (await client.post(f"{core}/pods", pod("p"))).ok()
    change = {"op": "add", "path": "/spec/containers/0/command", "value": ["x"]}
    (await client.json_patch(f"{core}/pods/p", change)).refused(
        422, "spec: Forbidden: pod updates may not change fields other than"
    )
    (await client.json_patch(f"{core}/pods/p", {"op": "replace", "path": "/spec/containers/0/image", "value": "other"})).ok()


async def test_a_pod_needs_an_image_and_its_volumes(client: Client, core: str) -> None:
    mounts = [{"name": "none", "mountPath": "/x"}]
    body = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "main", "volumeMounts": mounts}]}}
    refusal = (await client.post(f"{core}/pods", body)).refused(422, 'spec.containers[0].volumeMounts[0].name: Not found: "none"')
    assert "spec.containers[0].image: Required value" in refusal["message"]


async def test_bidirectional_propagation_needs_privilege(client: Client, core: str) -> None:
    container: Object = {
        "name": "main",
        "image": "i",
        "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}],
    }
    body = {"metadata": {"name": "p"}, "spec": {"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]}}
    (await client.post(f"{core}/pods", body)).refused(
        422, "Bidirectional mount propagation is available only to privileged containers"
    )
    container["securityContext"] = {"privileged": True}
    (await client.post(f"{core}/pods", body)).ok()


async def test_a_field_that_nobody_knows_is_dropped_and_said(client: Client, core: str) -> None:
    body = {"metadata": {"name": "a"}, "nonsense": 1}
    answer = await client.post(f"{core}/configmaps", body, fieldValidation="Warn")
    assert "nonsense" not in answer.ok()
    assert answer.headers["Warning"] == '299 - "unknown field \\"nonsense\\""'
    (await client.post(f"{core}/configmaps", {**body, "metadata": {"name": "b"}}, fieldValidation="Strict")).refused(
        400, 'strict decoding error: unknown field "nonsense"'
    )


async def test_a_value_of_the_wrong_type_is_refused(client: Client, core: str) -> None:
    (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}, "data": {"k": 3}})).refused(
        400, "json: cannot unmarshal number into Go struct field ConfigMap.data of type string"
    )


async def test_a_pod_is_bound_to_a_node_once(client: Client, core: str) -> None:
    (await client.post(f"{core}/pods", pod("p"))).ok()
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}
    (await client.post(f"{core}/pods/p/binding", binding)).ok()
    bound = (await client.get(f"{core}/pods/p")).ok()
    assert bound["spec"]["nodeName"] == "n1"
    assert [(c["type"], c["status"]) for c in bound["status"]["conditions"]] == [("PodScheduled", "True")]
    (await client.post(f"{core}/pods/p/binding", binding)).refused(409, 'pod p is already assigned to node "n1"')


async def test_an_eviction_respects_the_budget(client: Client, core: str, namespace: str) -> None:
    budgets = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"
    (await client.post(f"{core}/pods", {**pod("p"), "metadata": {"name": "p", "labels": {"a": "b"}}})).ok()
    found = (await client.get(f"{core}/pods/p")).ok()
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    (await client.put(f"{core}/pods/p/status", {**found, "status": ready})).ok()
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}
    made = (await client.post(budgets, {"metadata": {"name": "b"}, "spec": spec})).ok()
    counted = {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1, "observedGeneration": 1}
    (await client.put(f"{budgets}/b/status", {**made, "status": counted})).ok()
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    (await client.post(f"{core}/pods/p/eviction", eviction)).refused(
        429, "Cannot evict pod as it would violate the pod's disruption budget."
    )
    (await client.delete(f"{budgets}/b")).ok()
    (await client.post(f"{core}/pods/p/eviction", eviction)).ok()
    assert (await client.get(f"{core}/pods/p")).status == 404


async def test_a_namespace_ends_when_its_finalizer_is_taken_off(client: Client, core: str, namespace: str) -> None:
    going = (await client.delete(f"/api/v1/namespaces/{namespace}")).ok()
    assert going["status"]["phase"] == "Terminating" and going["spec"]["finalizers"] == ["kubernetes"]
    refusal = (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}})).refused(403, "because it is being terminated")
    assert refusal["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    found = (await client.get(f"/api/v1/namespaces/{namespace}")).ok()
    (await client.put(f"/api/v1/namespaces/{namespace}/finalize", {**found, "spec": {"finalizers": []}})).ok()
    assert (await client.get(f"/api/v1/namespaces/{namespace}")).status == 404


async def test_nothing_is_made_in_a_namespace_that_is_not_there(client: Client) -> None:
    (await client.post("/api/v1/namespaces/none/configmaps", {"metadata": {"name": "a"}})).refused(
        404, 'namespaces "none" not found'
    )


async def test_events_are_one_store_behind_two_groups(client: Client, core: str, namespace: str) -> None:
    body = {
        "metadata": {"name": "e", "namespace": namespace},
        "eventTime": "2026-01-02T03:04:05.000000Z",
        "reportingController": "test",
        "reportingInstance": "one",
        "action": "Testing",
        "reason": "Because",
        "type": "Normal",
        "note": "what happened",
        "regarding": {"kind": "Namespace", "name": namespace, "namespace": namespace},
    }
    (await client.post(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", body)).ok()
    seen = (await client.get(f"{core}/events", fieldSelector=f"involvedObject.name={namespace},reason=Because")).ok()["items"]
    assert [event["message"] for event in seen] == ["what happened"]


async def test_a_deployments_generation_grows_with_its_spec_only(client: Client, namespace: str) -> None:
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod("x")["spec"]}
    body = {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}
    made = (await client.post(path, body)).ok()
    assert made["metadata"]["generation"] == 1 and made["spec"]["replicas"] == 1
    assert made["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": "25%", "maxUnavailable": "25%"}
    labelled = (await client.merge_patch(f"{path}/d", {"metadata": {"labels": {"x": "y"}}})).ok()
    assert labelled["metadata"]["generation"] == 1
    scale = (await client.get(f"{path}/d/scale")).ok()
    assert scale["kind"] == "Scale" and scale["status"]["selector"] == "a=b"
    (await client.put(f"{path}/d/scale", {**scale, "spec": {"replicas": 3}})).ok()
    after = (await client.get(f"{path}/d")).ok()
    assert after["spec"]["replicas"] == 3 and after["metadata"]["generation"] == 2


async def test_a_secrets_text_becomes_data(client: Client, core: str) -> None:
    (await client.post(f"{core}/secrets", {"metadata": {"name": "s"}, "stringData": {"k": "v"}})).ok()
    found = (await client.get(f"{core}/secrets/s")).ok()
    assert found["data"] == {"k": "dg=="} and found["type"] == "Opaque" and "stringData" not in found
