"""Jobs: pods until enough have succeeded, or too many have failed. No indexes, suspension or deadlines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from e2e.cluster.api import ApiClient, Key, Object, key_of, path
from e2e.cluster.controllers import pods
from e2e.cluster.controllers.loop import fetch, owned_by, owner_key


class Jobs:
    watches: ClassVar = [("batch/v1", "jobs"), ("v1", "pods")]

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    def concerns(self, resource: str, obj: Object) -> Iterable[Key]:
        return [key_of(obj)] if resource == "jobs" else owner_key(obj, "Job")

    async def reconcile(self, key: Key) -> float | None:
        namespace, name = key
        url = path("batch/v1", "jobs", namespace=namespace, name=name)
        job = await fetch(self._api, url)
        if job is None or pods.is_terminating(job) or _finished(job):
            return None
        everyone = await self._api.list(path("v1", "pods", namespace=namespace))
        mine = [pod for pod in everyone if owned_by(job, pod)]
        active = [pod for pod in mine if pods.is_active(pod)]
        succeeded, failed = (sum(pod["status"].get("phase") == phase for pod in mine) for phase in ("Succeeded", "Failed"))
        spec = job["spec"]
        wanted = spec.get("completions", 1)
        status: Object = {"active": len(active), "succeeded": succeeded, "failed": failed}
        status["startTime"] = (job.get("status") or {}).get("startTime") or pods.stamp()
        if succeeded >= wanted:
            status["completionTime"] = pods.stamp()
            status["conditions"] = _done(job, "Complete", "CompletionsReached", f"{succeeded} pods have succeeded")
        elif failed > spec.get("backoffLimit", 6):
            await pods.delete(self._api, active)
            message = "Job has reached the specified backoff limit"
            status["conditions"] = _done(job, "Failed", "BackoffLimitExceeded", message)
        else:
            for _ in range(min(spec.get("parallelism", 1), wanted - succeeded) - len(active)):
                labels = {"job-name": name, "batch.kubernetes.io/job-name": name}
                await pods.create(self._api, job, ("batch/v1", "Job"), spec["template"], labels=labels)
        await pods.write_status(self._api, url, job, status)
        return None


def _finished(job: Object) -> bool:
    ends = (pods.condition(job, kind) for kind in ("Complete", "Failed"))
    return any(end is not None and end["status"] == "True" for end in ends)


def _done(job: Object, kind: str, reason: str, message: str) -> list[Object]:
    return pods.with_condition(job, kind, holds=True, reason=reason, message=message)
