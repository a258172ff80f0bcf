"""What a request is about, read from its method, path, query and headers; nothing of its body is looked at here."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from e2e.cluster.apiserver.resources import Catalog, Resource
from e2e.cluster.apiserver.selectors import named_by
from e2e.cluster.apiserver.status import bad_request, method_not_allowed, no_such_path

VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get", "HEAD": "get"}


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who asks. `extra` says which pod a service-account token is bound to."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def info(self) -> dict[str, object]:
        """The shape in which admission and token reviews carry it."""
        info: dict[str, object] = {"username": self.name, "groups": list(self.groups)}
        if self.uid:
            info["uid"] = self.uid
        if self.extra:
            info["extra"] = {key: list(values) for key, values in self.extra.items()}
        return info


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An addressed resource: what RBAC judges and what the registry acts on."""

    verb: str
    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def is_collection(self) -> bool:
        return not self.name


@dataclass(slots=True, kw_only=True)
class Call:
    """A request's settings that reach down to the registry, and the warnings that come back up."""

    user: User
    dry_run: bool = False
    manager: str = "unknown"
    field_validation: str = "Warn"
    force: bool = False
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def resource_target(catalog: Catalog, *, method: str, path: str, query: Mapping[str, str]) -> Target | None:
    """None where the path names no resource (discovery, health, …); an ApiError where it names one that is not served."""
    steps = [unquote(step) for step in path.strip("/").split("/")]
    match steps:
        case ["api", version, *rest] if rest:
            group = ""
        case ["apis", group, version, *rest] if rest:
            pass
        case _:
            return None
    if rest[0] == "watch":
        rest, query = rest[1:], {**query, "watch": "true"}
    namespace = ""
    # /namespaces/x/pods is about pods, but /namespaces/x and /namespaces/x/status are about the namespace itself.
    if len(rest) > 2 and rest[0] == "namespaces" and not (len(rest) == 3 and rest[2] in ("status", "finalize")):
        namespace, rest = rest[1], rest[2:]
    resource = catalog.find(group, version, rest[0]) if rest else None
    if resource is None or len(rest) > 3:
        raise no_such_path()
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    verb = _verb(method, name=name, query=query)
    _check(resource, verb, namespace=namespace, name=name, subresource=subresource)
    if verb in ("list", "watch", "deletecollection"):
        name = named_by(query.get("fieldSelector", ""))
    return Target(verb=verb, resource=resource, namespace=namespace, name=name, subresource=subresource)


def _verb(method: str, *, name: str, query: Mapping[str, str]) -> str:
    verb = VERBS.get(method)
    if verb is None:
        raise no_such_path()
    # Of a single object, clients watch the collection with a field selector.
    if verb == "get" and not name and is_true(query.get("watch", "")):
        return "watch"
    if not name:
        return {"get": "list", "delete": "deletecollection"}.get(verb, verb)
    return verb


def _check(resource: Resource, verb: str, *, namespace: str, name: str, subresource: str) -> None:
    if subresource:
        part = resource.subresource(subresource)
        if part is None:
            raise no_such_path()
        if verb not in part.verbs:
            raise method_not_allowed()
    elif verb not in resource.verbs or (verb == "create" and name) or (verb in ("patch", "update") and not name):
        raise method_not_allowed()
    if namespace and not resource.namespaced:
        raise no_such_path()
    if resource.namespaced and not namespace and (name or verb in ("create", "deletecollection")):
        raise no_such_path()


def call_options(user: User, query: Mapping[str, str], *, user_agent: str) -> Call:
    dry_run = query.get("dryRun", "")
    if dry_run not in ("", "All"):
        raise bad_request(f'dryRun: Unsupported value: "{dry_run}": supported values: "All"')
    validation = query.get("fieldValidation") or "Warn"
    if validation not in ("Ignore", "Warn", "Strict"):
        raise bad_request(f'fieldValidation: Unsupported value: "{validation}"')
    return Call(
        user=user,
        dry_run=bool(dry_run),
        manager=query.get("fieldManager") or user_agent.partition("/")[0] or "unknown",
        field_validation=validation,
        force=is_true(query.get("force", "")),
    )


def is_true(text: str) -> bool:
    return text.lower() in ("1", "true", "t")


def version_of(text: str) -> int:
    """A resourceVersion of a query; 0 where none is given."""
    if text and not text.isdecimal():
        why = f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        raise bad_request(f"invalid resource version: {why}")
    return int(text or "0")


def watch_timeout(query: Mapping[str, str]) -> float:
    """Seconds. Where the client names none, the real server ends a watch after 30 to 60 minutes."""
    return float(query.get("timeoutSeconds") or 0) or random.uniform(1800, 3600)
