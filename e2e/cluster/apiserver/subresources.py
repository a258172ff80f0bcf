"""Subresources that are not a part of their object but an act upon it: binding, eviction, token requests, scale."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from e2e.cluster.apiserver import metadata, patch
from e2e.cluster.apiserver.authn import AUDIENCE, MINIMUM_LIFETIME, Tokens
from e2e.cluster.apiserver.request import Call, Target
from e2e.cluster.apiserver.rest import Registry
from e2e.cluster.apiserver.selectors import label_selector_matches
from e2e.cluster.apiserver.shape import UNKNOWN
from e2e.cluster.apiserver.status import (
    Object,
    bad_request,
    conflict,
    invalid,
    not_found,
    too_many_requests,
    unprocessable,
)
from e2e.cluster.apiserver.store import Entry, Key

DEFAULT_TOKEN_LIFETIME = 3600
SUCCESS: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
_BINDABLE = {("v1", "Pod"): "/pods", ("v1", "Secret"): "/secrets"}


class Subresources:
    def __init__(self, registry: Registry, tokens: Tokens) -> None:
        self._registry = registry
        self._tokens = tokens

    async def create(self, target: Target, call: Call, body: Object) -> Object:
        await self._registry.admit_act(target, call, body, operation="CREATE")
        match target.resource.plural, target.subresource:
            case "pods", "binding":
                return await self._bind(target, call, body)
            case "pods", "eviction":
                return await self._evict(target, call, body)
            case "serviceaccounts", "token":
                return self._issue_token(target, body)
        raise bad_request(f"{target.resource.plural}/{target.subresource} cannot be created")

    async def _bind(self, target: Target, call: Call, body: Object) -> Object:
        node = (body.get("target") or {}).get("name")
        if not node:
            raise bad_request("target.name: Required value")

        def bound(pod: Object) -> Object:
            spec = pod["spec"]
            if pod["metadata"].get("deletionTimestamp"):
                raise conflict(
                    target.resource.subject, target.name, f"pod {target.name} is being deleted, cannot be assigned to a host"
                )
            if spec.get("nodeName"):
                why = f'pod {target.name} is already assigned to node "{spec["nodeName"]}"'
                raise conflict(target.resource.subject, target.name, why)
            spec["nodeName"] = node
            pod["metadata"].setdefault("annotations", {}).update((body.get("metadata") or {}).get("annotations") or {})
            conditions = pod.setdefault("status", {}).setdefault("conditions", [])
            conditions[:] = [c for c in conditions if c["type"] != "PodScheduled"]
            moment = metadata.now()
            conditions.append({"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": moment})
            return pod

        await self._registry.change(target, call, bound)
        return SUCCESS

    async def _evict(self, target: Target, call: Call, body: Object) -> Object:
        pod = self._registry.get(target)
        options = body.get("deleteOptions") or {}
        call.dry_run = call.dry_run or bool(options.get("dryRun"))
        finished = (pod.object.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        if not finished and not pod.object["metadata"].get("deletionTimestamp"):
            self._spend_budget(pod, dry_run=call.dry_run)
        await self._registry.delete(target, call, options)
        return SUCCESS

    def _spend_budget(self, pod: Entry, *, dry_run: bool) -> None:
        """Count the disruption in the budget that covers the pod, or refuse. The disruption controller counts it afresh later."""
        store = self._registry.store
        for budget in store.all("policy/poddisruptionbudgets", pod.key.namespace):
            selector = (budget.object.get("spec") or {}).get("selector")
            if not selector or not label_selector_matches(selector, pod.object["metadata"].get("labels") or {}):
                continue
            allowed = (budget.object.get("status") or {}).get("disruptionsAllowed", 0)
            if allowed <= 0:
                error = too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", retry_after=10)
                message = f"The disruption budget {budget.key.name} does not allow evicting pods currently"
                error.details = {"causes": [{"reason": "DisruptionBudget", "message": message}]}
                raise error
            if not dry_run:
                body = budget.thaw()
                body["status"]["disruptionsAllowed"] = allowed - 1
                store.put(budget.key, body, expected=budget.version)

    def _issue_token(self, target: Target, body: Object) -> Object:
        spec = body.get("spec") or {}
        account = self._registry.get(target)
        lifetime = spec.get("expirationSeconds") or DEFAULT_TOKEN_LIFETIME
        if lifetime < MINIMUM_LIFETIME:
            error = invalid("spec.expirationSeconds", lifetime, "may not specify a duration less than 10 minutes")
            raise unprocessable(target.resource.subject, target.name, [error])
        audiences = spec.get("audiences") or [AUDIENCE]
        bound_to = self._bound_object(target, spec.get("boundObjectRef"))
        token, expires = self._tokens.issue(account, audiences=audiences, lifetime=lifetime, bound_to=bound_to)
        until = datetime.datetime.fromtimestamp(expires, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": target.name, "namespace": target.namespace, "creationTimestamp": metadata.now()},
            "spec": {"audiences": audiences, "expirationSeconds": lifetime, "boundObjectRef": spec.get("boundObjectRef")},
            "status": {"token": token, "expirationTimestamp": until},
        }

    def _bound_object(self, target: Target, reference: Mapping[str, str] | None) -> Entry | None:
        if not reference:
            return None
        storage = _BINDABLE.get((reference.get("apiVersion", ""), reference.get("kind", "")))
        if storage is None:
            raise bad_request(f"cannot bind token to object of type {reference.get('apiVersion')}, Kind={reference.get('kind')}")
        resource = self._registry.catalog.find("", "v1", storage.lstrip("/"))
        assert resource is not None
        name = reference.get("name", "")
        entry = self._registry.store.get(Key(storage, target.namespace, name))
        if entry is None:
            raise not_found(resource.subject, name)
        found, wanted = entry.object["metadata"]["uid"], reference.get("uid")
        if wanted and wanted != found:
            why = (
                f"the UID in the bound object reference ({wanted}) does not match the UID in record. "
                "The object might have been deleted and then recreated"
            )
            raise conflict(resource.subject, name, why)
        service_account = (entry.object.get("spec") or {}).get("serviceAccountName")
        if storage == "/pods" and service_account != target.name:
            raise bad_request(
                f"cannot bind token for serviceaccount {target.name!r} to pod running with different serviceaccount name."
            )
        return entry

    def scale(self, target: Target) -> Object:
        return _scale_of(self._registry.get(target).object)

    async def update_scale(self, target: Target, call: Call, body: Object) -> Object:
        replicas = (body.get("spec") or {}).get("replicas", 0)
        if not isinstance(replicas, int) or replicas < 0:
            error = invalid("spec.replicas", replicas, "must be greater than or equal to 0")
            raise unprocessable(target.resource.subject, target.name, [error])
        wanted = (body.get("metadata") or {}).get("resourceVersion")

        def scaled(old: Object) -> Object:
            if wanted and wanted != old["metadata"]["resourceVersion"]:
                why = "the object has been modified; please apply your changes to the latest version and try again"
                raise conflict(target.resource.subject, target.name, why)
            old["spec"]["replicas"] = replicas
            return old

        return _scale_of(await self._registry.change(target, call, scaled))

    async def patch_scale(self, target: Target, call: Call, content_type: str, raw: bytes) -> Object:
        change = patch.decode(content_type, raw, UNKNOWN)
        return await self.update_scale(target, call, change(self.scale(target)))


def _scale_of(body: Object) -> Object:
    meta, spec = body["metadata"], body.get("spec") or {}
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: meta[name] for name in kept if name in meta},
        "spec": {"replicas": spec.get("replicas", 0)},
        "status": {
            "replicas": (body.get("status") or {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in labels.items()),
        },
    }
