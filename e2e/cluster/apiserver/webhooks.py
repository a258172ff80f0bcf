"""Admission webhooks: whom to ask, how, and what their answers do.

A webhook is reached by URL, or through its Service: here no kube-proxy routes a ClusterIP, so the addresses come from the Service's
EndpointSlices (or Endpoints), while the certificate is still checked against `name.namespace.svc`. Mutating webhooks are asked one
after the other, by name; those that asked for it are asked once more if a later one changed the object. Validating ones are asked
all at once.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from e2e.cluster.apiserver import cel, matching, patch
from e2e.cluster.apiserver.admission import Attributes
from e2e.cluster.apiserver.status import ApiError, Object, internal
from e2e.cluster.apiserver.store import Key, Store

GROUP = "admissionregistration.k8s.io"
MUTATING = f"{GROUP}/mutatingwebhookconfigurations"
VALIDATING = f"{GROUP}/validatingwebhookconfigurations"
EXEMPT = (MUTATING, VALIDATING, f"{GROUP}/validatingadmissionpolicies", f"{GROUP}/validatingadmissionpolicybindings")
"""What webhooks are not asked about: a wrong one could not be repaired otherwise."""


@dataclass(frozen=True, slots=True)
class Hook:
    """One entry of a configuration."""

    configuration: str
    settings: Object

    @property
    def name(self) -> str:
        return str(self.settings["name"])

    @property
    def tolerates_failure(self) -> bool:
        return bool(self.settings.get("failurePolicy") == "Ignore")


class CallFailed(Exception):
    """The webhook could not be asked, or made no sense; its failure policy decides what that means."""


class Webhooks:
    """The plug-in for both kinds. It holds the connections, hence it is a context."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=100, keepalive_timeout=15)
        self._session = await self._stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    async def mutate(self, attributes: Attributes) -> Object | None:
        if attributes.target.resource.storage in EXEMPT:
            return None
        left: list[tuple[Hook, Object | None]] = []
        for hook in self._hooks(MUTATING):
            if self._concerns(hook, attributes):
                attributes = await self._mutated(hook, attributes)
                left.append((hook, attributes.object))
        # Its own change does not make a webhook be asked again, only one by another since.
        for hook, as_left in left:
            if hook.settings.get("reinvocationPolicy") == "IfNeeded" and attributes.object != as_left:
                attributes = await self._mutated(hook, attributes)
        return attributes.object

    async def _mutated(self, hook: Hook, attributes: Attributes) -> Attributes:
        response = await self._ask(hook, attributes)
        change = response.get("patch")
        if not change or attributes.object is None:
            return attributes
        try:
            operations = msgspec.json.decode(base64.b64decode(change))
            return attributes.with_object(patch.json_patch(attributes.object, operations))
        except (ValueError, ApiError) as error:
            raise internal(f'failed calling webhook "{hook.name}": the patch does not apply: {error}') from error

    async def validate(self, attributes: Attributes) -> None:
        if attributes.target.resource.storage in EXEMPT:
            return
        hooks = [hook for hook in self._hooks(VALIDATING) if self._concerns(hook, attributes)]
        results = await asyncio.gather(*(self._ask(hook, attributes) for hook in hooks), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _hooks(self, storage: str) -> Iterator[Hook]:
        for entry in self._store.all(storage):
            for settings in entry.object.get("webhooks") or ():
                yield Hook(entry.key.name, settings)

    def _concerns(self, hook: Hook, attributes: Attributes) -> bool:
        settings, target = hook.settings, attributes.target
        if not any(matching.rule_covers(rule, attributes) for rule in settings.get("rules") or ()):
            return False
        if not matching.is_selected(self._store, settings, attributes):
            return False
        try:
            return all(matching.condition_holds(condition, attributes) for condition in settings.get("matchConditions") or ())
        except (cel.EvaluationError, cel.CompileError) as error:
            if hook.tolerates_failure:
                return False
            raise attributes.refuse(f"{error} (match condition of webhook {hook.name} for {target.resource.plural})") from error

    async def _ask(self, hook: Hook, attributes: Attributes) -> Object:
        """The webhook's response, if it allows; an ApiError if it refuses, or fails where it may not."""
        try:
            response = await self._call(hook, attributes)
        except CallFailed as error:
            if hook.tolerates_failure:
                return {}
            raise internal(f'failed calling webhook "{hook.name}": {error}') from error
        for text in response.get("warnings") or ():
            attributes.call.warn(text)
        if not response.get("allowed"):
            raise _denial(hook, response.get("status") or {})
        return response

    async def _call(self, hook: Hook, attributes: Attributes) -> Object:
        request = matching.request_of(attributes)
        review = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
        url, server_name = self._address(hook)
        shown = f"{hook.settings['clientConfig'].get('url') or url}?timeout={hook.settings['timeoutSeconds']}s"
        try:
            async with self._session.post(
                url,
                data=msgspec.json.encode(review),
                params={"timeout": f"{hook.settings['timeoutSeconds']}s"},
                headers={"Content-Type": "application/json", "Accept": "application/json"},
                ssl=self._trust(hook.settings["clientConfig"].get("caBundle", "")),
                server_hostname=server_name,
                timeout=aiohttp.ClientTimeout(total=hook.settings["timeoutSeconds"]),
            ) as answer:
                body = await answer.read()
                if answer.status != 200:
                    said = body[:200].decode(errors="replace")
                    raise CallFailed(f'an error on the server ("{said}") has prevented the request from succeeding')
        except TimeoutError as error:
            raise CallFailed(f'Post "{shown}": context deadline exceeded') from error
        except aiohttp.ClientError as error:
            raise CallFailed(f'failed to call webhook: Post "{shown}": {error}') from error
        return _response_in(body, request["uid"])

    def _address(self, hook: Hook) -> tuple[str, str | None]:
        """Where to post, and the name that the certificate must have if that is not the host of the URL."""
        client = hook.settings["clientConfig"]
        if url := client.get("url"):
            return url, None
        service = client["service"]
        name, namespace = service["name"], service["namespace"]
        path = service.get("path", "/")
        for address, port in self._endpoints(namespace, name, service.get("port", 443)):
            host = f"[{address}]" if ":" in address else address
            return f"https://{host}:{port}/{path.lstrip('/')}", f"{name}.{namespace}.svc"
        if self._store.get(Key("/services", namespace, name)) is None:
            raise CallFailed(f'failed to call webhook: service "{name}" not found')
        raise CallFailed(f'failed to call webhook: no endpoints available for service "{name}"')

    def _endpoints(self, namespace: str, name: str, port: int) -> Iterator[tuple[str, int]]:
        service = self._store.get(Key("/services", namespace, name))
        ports = (service.object["spec"].get("ports") or []) if service else []
        port_name = next((entry.get("name", "") for entry in ports if entry["port"] == port), None)
        for entry in self._store.all("discovery.k8s.io/endpointslices", namespace):
            if (entry.object["metadata"].get("labels") or {}).get("kubernetes.io/service-name") != name:
                continue
            for endpoint in entry.object.get("endpoints") or ():
                if (endpoint.get("conditions") or {}).get("ready") is not False:
                    for candidate in entry.object.get("ports") or ():
                        if port_name is None or (candidate.get("name") or "") == port_name:
                            yield endpoint["addresses"][0], candidate["port"]
        endpoints = self._store.get(Key("/endpoints", namespace, name))
        for subset in (endpoints.object.get("subsets") or []) if endpoints else []:
            for address in subset.get("addresses") or ():
                for candidate in subset.get("ports") or ():
                    if port_name is None or (candidate.get("name") or "") == port_name:
                        yield address["ip"], candidate["port"]

    def _trust(self, bundle: str) -> ssl.SSLContext:
        if bundle not in self._contexts:
            if len(self._contexts) > 20:
                self._contexts.clear()
            try:
                data = base64.b64decode(bundle).decode() if bundle else None
                self._contexts[bundle] = ssl.create_default_context(cadata=data)
            except (ValueError, ssl.SSLError) as error:
                raise CallFailed(f"failed to call webhook: unable to load root certificates: {error}") from error
        return self._contexts[bundle]


def _response_in(body: bytes, uid: str) -> Object:
    try:
        review = msgspec.json.decode(body)
        response: Object = review["response"]
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise CallFailed(f"the response is no AdmissionReview: {error}") from error
    if response.get("uid") != uid:
        raise CallFailed(f'expected response.uid="{uid}", got "{response.get("uid", "")}"')
    if response.get("patch") and response.get("patchType") != "JSONPatch":
        raise CallFailed("the webhook returned a patch without patchType JSONPatch")
    return response


def _denial(hook: Hook, status: Object) -> ApiError:
    reason, message = status.get("reason", ""), status.get("message", "")
    said = message or reason
    text = f'admission webhook "{hook.name}" denied the request' + (f": {said}" if said else " without explanation")
    return ApiError(status.get("code") or 403, reason or "Forbidden", text, status.get("details") or {})
