"""Pods on the local cluster: real containers, asked about through the API and looked at from inside."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from e2e.cluster.api import Object, path
from e2e.cluster.tests.conftest import Space

FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


def shell(script: str, *, name: str = "main", **fields: object) -> Object:
    return {"name": name, "image": "busybox", "command": ["/bin/sh", "-c", script], **fields}


def only(container: Object, **spec: object) -> Object:
    return {"containers": [container], "terminationGracePeriodSeconds": 5, **spec}


async def eventually(check: Callable[[], Awaitable[bool]], *, limit: float = 60) -> None:
    async with asyncio.timeout(limit):
        while not await check():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def lines_of(space: Space, pod: str, *, count: int, **params: str) -> list[str]:
    """A pod's log once it has that many lines: Ready means that the program was started, not that it has spoken."""

    async def enough() -> bool:
        return len((await space.logs(pod, **params)).splitlines()) >= count

    await eventually(enough)
    return (await space.logs(pod, **params)).splitlines()


async def test_a_pod_runs_and_its_output_is_its_log(space: Space) -> None:
    await space.run("p", only(shell("echo out; echo err >&2; " + FOREVER)))
    await space.wait("p")
    assert sorted(await lines_of(space, "p", count=2)) == ["err", "out"]


async def test_exec_passes_input_output_and_the_exit_code(space: Space) -> None:
    await space.run("p", only(shell(FOREVER)))
    await space.wait("p")
    assert await space.kubectl("exec", "p", "--", "sh", "-c", "echo $((6*7))") == "42\n"
    said = await space.kubectl("exec", "p", "--", "sh", "-c", "echo no >&2; exit 7", check=False)
    assert "no" in said
    assert "exit code 7" in said


async def test_a_container_has_processes_and_a_host_name_of_its_own(space: Space) -> None:
    await space.run("p", only(shell("hostname; echo $$$$; " + FOREVER)))
    await space.wait("p")
    assert await lines_of(space, "p", count=2) == ["p", "1"]


async def test_what_a_container_writes_into_its_root_stays_in_it(space: Space) -> None:
    await space.run("p", only(shell("touch /etc/only-here && cat /etc/hostname; " + FOREVER)))
    await space.run("q", only(shell("ls /etc/only-here; " + FOREVER)))
    await space.wait("p")
    await space.wait("q")
    assert "No such file" in (await lines_of(space, "q", count=1))[0]


async def test_the_environment_knows_fields_resources_secrets_and_other_variables(space: Space) -> None:
    secret = {"metadata": {"name": "s"}, "data": {"word": base64.b64encode(b"hidden").decode()}}
    await space.api.create(path("v1", "secrets", namespace=space.name), {"apiVersion": "v1", "kind": "Secret", **secret})
    env = [
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "word"}}},
        {"name": "ALL", "value": "$(SECRET)+$$(IP)+$(UNKNOWN)"},
    ]
    script = 'echo "$IP $NODE $MEMORY $ALL"; ' + FOREVER
    await space.run("p", only(shell(script, env=env, resources={"limits": {"memory": "64Mi"}})))
    await space.wait("p")
    pod = await space.pod("p")
    address, node, memory, everything = (await lines_of(space, "p", count=1))[0].split()
    assert address == pod["status"]["podIP"]
    assert node == pod["spec"]["nodeName"]
    assert memory == "64"
    assert everything == "hidden+$(IP)+$(UNKNOWN)"


async def test_a_missing_secret_is_said_in_the_status_and_waited_for(space: Space) -> None:
    env = [{"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "late", "key": "k"}}}]
    await space.run("p", only(shell("echo $SECRET; " + FOREVER, env=env)))

    async def told() -> bool:
        statuses = (await space.pod("p"))["status"].get("containerStatuses") or [{"state": {}}]
        waiting = statuses[0]["state"].get("waiting") or {}
        return waiting.get("reason") == "CreateContainerConfigError" and 'secret "late" not found' in waiting["message"]

    await eventually(told)
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late"}, "stringData": {"k": "here"}}
    await space.api.create(path("v1", "secrets", namespace=space.name), body)
    await space.wait("p")
    assert await lines_of(space, "p", count=1) == ["here"]


async def test_a_crashing_container_restarts_at_once_and_then_with_growing_delays(space: Space) -> None:
    await space.run("p", only(shell("exit 3")))

    async def backing_off() -> bool:
        status = ((await space.pod("p"))["status"].get("containerStatuses") or [{}])[0]
        return (status.get("state", {}).get("waiting") or {}).get("reason") == "CrashLoopBackOff"

    await eventually(backing_off)
    status = (await space.pod("p"))["status"]["containerStatuses"][0]
    assert status["restartCount"] >= 1
    assert status["lastState"]["terminated"]["exitCode"] == 3
    reasons = [reason for reason, _ in await space.events("p")]
    assert "BackOff" in reasons


async def test_a_pod_that_is_not_restarted_succeeds_or_fails(space: Space) -> None:
    await space.run("good", only(shell("exit 0"), restartPolicy="Never"))
    await space.run("bad", only(shell("exit 2"), restartPolicy="Never"))
    await space.wait("good", "jsonpath={.status.phase}=Succeeded")
    await space.wait("bad", "jsonpath={.status.phase}=Failed")
    ended = (await space.pod("bad"))["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (2, "Error")


async def test_a_program_that_does_not_exist_is_named(space: Space) -> None:
    container = {"name": "main", "image": "busybox", "command": ["/no/such/program"]}
    await space.run("p", only(container, restartPolicy="Never"))
    await space.wait("p", "jsonpath={.status.phase}=Failed")
    ended = (await space.pod("p"))["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["reason"] == "StartError"
    assert "/no/such/program" in ended["message"]


async def test_a_container_over_its_memory_limit_is_killed_and_that_is_the_reason(space: Space) -> None:
    eat = "x = bytearray(300 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1"
    container = {"name": "main", "image": "python", "command": ["python3", "-c", eat]}
    await space.run("p", only(container | {"resources": {"limits": {"memory": "50Mi"}}}, restartPolicy="Never"))
    await space.wait("p", "jsonpath={.status.phase}=Failed", limit=60)
    ended = (await space.pod("p"))["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


async def test_init_containers_run_in_order_and_a_sidecar_stays(space: Space) -> None:
    mounts = [{"name": "shared", "mountPath": "/shared"}]
    initial = [
        shell("echo one >> /shared/order", name="first", volumeMounts=mounts),
        shell("echo side >> /shared/order; " + FOREVER, name="side", restartPolicy="Always", volumeMounts=mounts),
        shell("echo two >> /shared/order", name="second", volumeMounts=mounts),
    ]
    main = shell("cat /shared/order; " + FOREVER, volumeMounts=mounts)
    await space.run("p", only(main, initContainers=initial, volumes=[{"name": "shared", "emptyDir": {}}]))
    await space.wait("p")
    assert await lines_of(space, "p", count=3, container="main") == ["one", "side", "two"]
    side = (await space.pod("p"))["status"]["initContainerStatuses"][1]
    assert "running" in side["state"]


async def test_a_sidecar_does_not_keep_a_finished_pod_alive(space: Space) -> None:
    side = shell(FOREVER, name="side", restartPolicy="Always")
    await space.run("p", only(shell("exit 0"), initContainers=[side], restartPolicy="Never"))
    await space.wait("p", "jsonpath={.status.phase}=Succeeded")


async def test_a_program_that_ignores_the_signal_is_killed_when_its_grace_is_over(space: Space) -> None:
    await space.run("p", only(shell("trap '' TERM; while :; do sleep 0.1; done"), terminationGracePeriodSeconds=2))
    await space.wait("p")
    begin = time.monotonic()
    await space.kubectl("delete", "pod", "p", "--wait", "--timeout=60s")
    assert 1.5 < time.monotonic() - begin < 8


async def test_a_program_that_obeys_the_signal_ends_at_once(space: Space) -> None:
    await space.run("p", only(shell(FOREVER), terminationGracePeriodSeconds=60))
    await space.wait("p")
    begin = time.monotonic()
    await space.kubectl("delete", "pod", "p", "--wait", "--timeout=60s")
    assert time.monotonic() - begin < 10


_NONE: Any = []


async def test_what_the_api_server_does_not_take_the_kubelet_says_again(space: Space) -> None:
    """A conflict, too: it is not always about an object that is another's by now."""
    if space.cluster.has_real_apiserver:
        pytest.skip("a real API server has no faults on demand")
    await space.run("p", only(shell(FOREVER)))
    await space.wait("p")
    await space.kubectl("delete", "pod", "p", "--wait=false")
    refusals: Any = [{"methods": ["PATCH", "DELETE"], "path": f"/{space.name}/pods/p", "status": 409, "times": 4}]
    try:
        await space.api.create("/debug/faults", refusals)
        await space.kubectl("wait", "pod/p", "--for=delete", "--timeout=30s")
    finally:
        await space.api.create("/debug/faults", _NONE)


async def test_a_failing_liveness_probe_restarts_the_container(space: Space) -> None:
    probe = {"exec": {"command": ["test", "-e", "/alive"]}, "periodSeconds": 1, "failureThreshold": 1}
    await space.run("p", only(shell("touch /alive; " + FOREVER, livenessProbe=probe)))
    await space.wait("p")
    await space.kubectl("exec", "p", "--", "rm", "/alive")

    async def restarted() -> bool:
        return bool((await space.pod("p"))["status"]["containerStatuses"][0]["restartCount"] == 1)

    await eventually(restarted)
    assert "Unhealthy" in [reason for reason, _ in await space.events("p")]


async def test_readiness_follows_its_probe(space: Space) -> None:
    probe = {"exec": {"command": ["test", "-e", "/ready"]}, "periodSeconds": 1, "failureThreshold": 1}
    await space.run("p", only(shell(FOREVER, readinessProbe=probe)))
    await space.wait("p", "jsonpath={.status.phase}=Running")
    assert not (await space.pod("p"))["status"]["containerStatuses"][0]["ready"]
    await space.kubectl("exec", "p", "--", "touch", "/ready")
    await space.wait("p")
    await space.kubectl("exec", "p", "--", "rm", "/ready")
    await space.wait("p", "condition=Ready=False")


async def test_http_probes_reach_the_pods_own_address(space: Space) -> None:
    probe = {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1}
    container = {
        "name": "main",
        "image": "python",
        "command": ["python3", "-m", "http.server", "8080", "--bind", "$(IP)"],
        "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": probe,
        "startupProbe": probe,
    }
    for name in ("p", "q"):
        await space.run(name, only(container, nodeName="node-1"))
    for name in ("p", "q"):
        await space.wait(name)


async def test_a_secret_volume_follows_the_secret_and_has_the_mode_and_group(space: Space) -> None:
    url = path("v1", "secrets", namespace=space.name)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "old"}}
    await space.api.create(url, secret)
    main = shell(FOREVER, volumeMounts=[{"name": "v", "mountPath": "/v"}], securityContext={"runAsUser": 1234})
    volumes = [{"name": "v", "secret": {"secretName": "s", "defaultMode": 0o400}}]
    await space.run("p", only(main, volumes=volumes, securityContext={"fsGroup": 4321}))
    await space.wait("p")
    assert await space.kubectl("exec", "p", "--", "cat", "/v/k") == "old"
    assert await space.kubectl("exec", "p", "--", "stat", "-L", "-c", "%a %g", "/v/k") == "440 4321\n"
    await space.api.patch(f"{url}/s", {"data": {"k": base64.b64encode(b"new").decode()}})

    async def changed() -> bool:
        return await space.kubectl("exec", "p", "--", "cat", "/v/k") == "new"

    await eventually(changed)


async def test_the_downward_api_shows_a_label_that_changed(space: Space) -> None:
    items = [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
    main = shell(FOREVER, volumeMounts=[{"name": "v", "mountPath": "/v"}])
    await space.run("p", only(main, volumes=[{"name": "v", "downwardAPI": {"items": items}}]), labels={"a": "1"})
    await space.wait("p")
    assert await space.kubectl("exec", "p", "--", "cat", "/v/labels") == 'a="1"'
    await space.kubectl("label", "pod", "p", "a=2", "--overwrite")

    async def changed() -> bool:
        return await space.kubectl("exec", "p", "--", "cat", "/v/labels") == 'a="2"'

    await eventually(changed)


async def test_the_service_account_token_opens_the_api_from_inside(space: Space) -> None:
    script = (
        "cd /var/run/secrets/kubernetes.io/serviceaccount && kubectl auth whoami --token=$(cat token) "
        "--server=https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT --certificate-authority=ca.crt; " + FOREVER
    )
    await space.run("p", only(shell(script)))
    await space.wait("p")

    async def answered() -> bool:
        return f"system:serviceaccount:{space.name}:default" in await space.logs("p")

    await eventually(answered)


async def test_a_volume_that_cannot_be_made_is_an_event_and_is_tried_again(space: Space) -> None:
    main = shell("cat /v/k; " + FOREVER, volumeMounts=[{"name": "v", "mountPath": "/v"}])
    await space.run("p", only(main, volumes=[{"name": "v", "configMap": {"name": "late"}}]))

    async def told() -> bool:
        return any(reason == "FailedMount" and "late" in text for reason, text in await space.events("p"))

    await eventually(told)
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}, "data": {"k": "v"}}
    await space.api.create(path("v1", "configmaps", namespace=space.name), body)
    await space.wait("p")


async def test_mounts_travel_as_their_propagation_says(space: Space) -> None:
    """What a privileged, Bidirectional helper mounts is seen by HostToContainer, not by None, and not sent back."""
    volumes = [{"name": "v", "hostPath": {"path": f"/var/lib/dynamic/{space.name}", "type": "DirectoryOrCreate"}}]

    def mount(propagation: str) -> list[Object]:
        return [{"name": "v", "mountPath": "/v", "mountPropagation": propagation}]

    helper = shell(FOREVER, securityContext={"privileged": True}, volumeMounts=mount("Bidirectional"))
    slave = shell(FOREVER, name="slave", volumeMounts=mount("HostToContainer"))
    private = shell(FOREVER, name="private", volumeMounts=mount("None"))
    pin = {"nodeName": "node-1"}
    await space.run("helper", only(helper, volumes=volumes, **pin))
    await space.run("user", {"containers": [slave, private], "volumes": volumes, **pin, "terminationGracePeriodSeconds": 5})
    await space.wait("helper")
    await space.wait("user")
    await space.kubectl("exec", "helper", "--", "sh", "-c", "mkdir /v/m && mount -t tmpfs t /v/m && echo hi > /v/m/f")
    assert await space.kubectl("exec", "user", "-c", "slave", "--", "cat", "/v/m/f") == "hi\n"
    assert "No such file" in await space.kubectl("exec", "user", "-c", "private", "--", "cat", "/v/m/f", check=False)
    await space.kubectl("exec", "helper", "--", "umount", "/v/m")
    assert "No such file" in await space.kubectl("exec", "user", "-c", "slave", "--", "cat", "/v/m/f", check=False)


async def test_bidirectional_is_refused_to_the_unprivileged(space: Space) -> None:
    mounts = [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}]
    volumes = [{"name": "v", "hostPath": {"path": "/var/lib/dynamic"}}]
    try:
        await space.run("p", only(shell(FOREVER, volumeMounts=mounts), volumes=volumes))
    except Exception as error:
        assert "Bidirectional" in str(error)
        return

    async def refused() -> bool:
        return any("privileged" in text for _, text in await space.events("p"))

    await eventually(refused)


async def test_a_read_only_mount_and_a_read_only_root_are_that(space: Space) -> None:
    mounts = [{"name": "v", "mountPath": "/v", "readOnly": True}]
    container = shell(FOREVER, volumeMounts=mounts, securityContext={"readOnlyRootFilesystem": True})
    await space.run("p", only(container, volumes=[{"name": "v", "emptyDir": {}}]))
    await space.wait("p")
    for place in ("/v/f", "/f"):
        said = await space.kubectl("exec", "p", "--", "touch", place, check=False)
        assert "Read-only file system" in said


async def test_a_sub_path_shows_a_part_of_a_volume(space: Space) -> None:
    whole = shell("mkdir -p /v/a && echo part > /v/a/f", name="first", volumeMounts=[{"name": "v", "mountPath": "/v"}])
    part = shell("cat /p/f; " + FOREVER, volumeMounts=[{"name": "v", "mountPath": "/p", "subPath": "a"}])
    await space.run("p", only(part, initContainers=[whole], volumes=[{"name": "v", "emptyDir": {}}]))
    await space.wait("p")
    assert await lines_of(space, "p", count=1, container="main") == ["part"]


async def test_the_previous_log_is_kept_after_a_restart(space: Space) -> None:
    script = "echo try; if test -e /t/once; then " + FOREVER + "; fi; touch /t/once; exit 1"
    main = shell(script, volumeMounts=[{"name": "t", "mountPath": "/t"}])
    await space.run("p", only(main, volumes=[{"name": "t", "emptyDir": {}}]))

    async def restarted() -> bool:
        return bool((await space.pod("p"))["status"].get("containerStatuses", [{}])[0].get("restartCount"))

    await eventually(restarted)
    await space.wait("p")
    assert (await space.logs("p", previous="true")).startswith("try")


async def test_a_log_can_be_followed_to_its_end(space: Space) -> None:
    await space.run("p", only(shell("for i in 1 2 3; do echo $i; sleep 0.3; done"), restartPolicy="Never"))
    await eventually(lambda: _has_begun(space, "p"))
    assert (await space.kubectl("logs", "-f", "p")).split() == ["1", "2", "3"]


async def _has_begun(space: Space, name: str) -> bool:
    statuses = (await space.pod(name))["status"].get("containerStatuses") or [{"state": {}}]
    return "waiting" not in statuses[0]["state"] and bool(statuses[0]["state"])


async def test_the_environment_of_the_cluster_does_not_leak_into_pods(space: Space) -> None:
    await space.run("p", only(shell("env; " + FOREVER)))
    await space.wait("p")
    names = {line.partition("=")[0] for line in await lines_of(space, "p", count=5)}
    assert names <= {
        "PATH", "HOME", "HOSTNAME", "PWD", "OLDPWD", "SHLVL", "_", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT",
        "KUBERNETES_SERVICE_PORT_HTTPS",
    }  # fmt: skip


async def test_standard_input_reaches_a_program_and_so_does_its_end(space: Space) -> None:
    await space.run("p", only(shell(FOREVER)))
    await space.wait("p")
    config = f"--kubeconfig={space.cluster.kubeconfig}"
    process = await asyncio.create_subprocess_exec(
        *("kubectl", config, "-n", space.name, "exec", "-i", "p", "--", "md5sum"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    data = bytes(range(256)) * 4096
    output, _ = await process.communicate(data)
    assert output.split()[0].decode() == hashlib.md5(data).hexdigest()


async def test_a_terminal_is_given_where_one_is_asked_for(space: Space) -> None:
    await space.run("p", only(shell(FOREVER)))
    await space.wait("p")
    ours, theirs = os.openpty()
    config = f"--kubeconfig={space.cluster.kubeconfig}"
    command = ("kubectl", config, "-n", space.name, "exec", "-it", "p", "--", "sh", "-c", "test -t 0 && stty size; exit 4")
    process = await asyncio.create_subprocess_exec(*command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    assert await asyncio.wait_for(process.wait(), 20) == 4
    said = os.read(ours, 4096).decode()
    os.close(ours)
    assert len(said.splitlines()[0].split()) == 2


async def test_a_pod_that_is_evicted_ends_failed_and_its_object_stays(space: Space) -> None:
    await space.run("p", only(shell(FOREVER), restartPolicy="Always"))
    await space.wait("p")
    pod = await space.pod("p")
    orders = space.cluster.node_directory(pod["spec"]["nodeName"]) / "evictions"
    orders.mkdir(exist_ok=True)
    (orders / pod["metadata"]["uid"]).touch()
    await space.wait("p", "jsonpath={.status.phase}=Failed")
    status = (await space.pod("p"))["status"]
    assert (status["reason"], status["containerStatuses"][0]["restartCount"]) == ("Evicted", 0)
    assert list(orders.iterdir()) == []
