"""Serves the pods of a cluster and nothing else, from bytes that were made before: `… pods_served COUNT`.

Lists, in pages, and watches that begin with what there is. Says at which port of loopback before it says that it is ready.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from dynvol.api import names
from e2e.bench.programs import READY, lines, say

VERSION = "100000"
_EVERY = 1
"""One pod in so many has a dynamic volume."""


def pod(number: int) -> dict[str, Any]:
    """As an API server would give it, with all that nobody reads: some 7 kB."""
    labels = {"app": f"app-{number % 50}", "pod-template-hash": f"{number % 50:010x}", "team": f"team-{number % 7}"}
    environment = [{"name": f"SETTING_{n}", "value": f"value-{n}-" + "x" * 40} for n in range(14)]
    volumes: list[dict[str, Any]] = [{"name": "config", "configMap": {"name": f"app-{number % 50}", "defaultMode": 420}}]
    if number % _EVERY == 0:
        attributes = {names.CLASS_ATTRIBUTE: "s3-sample", names.POLICY_ATTRIBUTE: names.INDEPENDENT}
        volumes.append(
            {"name": names.VOLUME_NAME, "csi": {"driver": names.DRIVER, "readOnly": True, "volumeAttributes": attributes}}
        )
    container = {
        "name": "app",
        "image": f"registry.example/app-{number % 50}:1.{number % 9}",
        "imagePullPolicy": "IfNotPresent",
        "env": environment,
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [{"name": v["name"], "mountPath": f"/mnt/{v['name']}"} for v in volumes],
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"},
            "periodSeconds": 10,
            "timeoutSeconds": 1,
        },
        "terminationMessagePath": "/dev/termination-log",
    }
    fields: dict[str, Any] = {f"f:field{n}": {".": {}, "f:name": {}, "f:value": {}} for n in range(30)}
    managers = [
        {"manager": who, "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": fields}}
        for who in ("kube-controller-manager", "kubelet")
    ]
    started = "2026-01-01T00:00:00Z"
    conditions = [
        {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": started}
        for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"app-{number:05}",
            "namespace": f"ns-{number % 25}",
            "uid": f"00000000-0000-4000-8000-{number:012}",
            "resourceVersion": str(1000 + number),
            "creationTimestamp": started,
            "labels": labels,
            "annotations": {f"example.com/note-{n}": "n" * 60 for n in range(4)},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u", "controller": True}],
            "managedFields": managers,
        },
        "spec": {
            "nodeName": f"node-{number % 100}",
            "containers": [container],
            "volumes": volumes,
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}] * 2,
            "serviceAccountName": "default",
            "schedulerName": "default-scheduler",
            "securityContext": {"runAsUser": 1000, "fsGroup": 1000},
        },
        "status": {
            "phase": "Running",
            "conditions": conditions,
            "podIP": "10.0.0.1",
            "hostIP": "10.1.0.1",
            "startTime": started,
            "containerStatuses": [
                {
                    "name": "app",
                    "ready": True,
                    "restartCount": 0,
                    "image": f"registry.example/app-{number % 50}:1.{number % 9}",
                    "imageID": f"registry.example/app@sha256:{number:064x}",
                    "containerID": f"containerd://{number:064x}",
                    "state": {"running": {"startedAt": started}},
                }
            ],
        },
    }


def routes(pods: Sequence[bytes]) -> web.Application:
    added = b"".join(b'{"type":"ADDED","object":%s}\n' % pod for pod in pods)
    mark = {"resourceVersion": VERSION, "annotations": {"k8s.io/initial-events-end": "true"}}
    end = json.dumps({"type": "BOOKMARK", "object": {"kind": "Pod", "apiVersion": "v1", "metadata": mark}}).encode() + b"\n"

    async def served(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await watched(request)
        first, limit = int(request.query.get("continue", 0)), int(request.query.get("limit", 0)) or len(pods)
        rest = len(pods) - first - limit
        meta = {"resourceVersion": VERSION} | ({"continue": str(first + limit), "remainingItemCount": rest} if rest > 0 else {})
        head = json.dumps({"kind": "PodList", "apiVersion": "v1", "metadata": meta})[:-1].encode()
        items = b",".join(pods[first : first + limit])
        return web.Response(body=head + b',"items":[' + items + b"]}", content_type="application/json")

    async def watched(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        if "sendInitialEvents" in request.query:
            for at in range(0, len(added), 1 << 16):
                await answer.write(added[at : at + (1 << 16)])
            await answer.write(end)
        await asyncio.Event().wait()
        return answer

    application = web.Application()
    application.router.add_get("/api/v1/pods", served)
    return application


async def main(count: int) -> None:
    pods = [json.dumps(pod(number), separators=(",", ":")).encode() for number in range(count)]
    runner = web.AppRunner(routes(pods), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    say(str(runner.addresses[0][1]))
    say(str(sum(map(len, pods)) // len(pods)))
    say(READY)
    async for _ in lines():
        pass
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
