"""Who may do what: RBAC as the stored roles and bindings grant it. Nothing is granted outside of them but to system:masters.

The roles that the control plane itself needs are created at the first start, see `bootstrap`. Escalation is not checked: whoever
may write roles may write any.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from e2e.cluster.apiserver.request import Target, User
from e2e.cluster.apiserver.status import ApiError, Object, Subject, forbidden, forbidden_path
from e2e.cluster.apiserver.store import Key, Store

GROUP = "rbac.authorization.k8s.io"
MASTERS = "system:masters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One thing that someone wants to do; of a resource, or of a path where `path` is set."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    @property
    def full_resource(self) -> str:
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


def access_to(target: Target) -> Access:
    # A namespace is judged as if it lay in itself: a Role in it can grant reading it.
    in_itself = target.resource.storage == "/namespaces" and target.name
    return Access(
        verb=target.verb,
        group=target.resource.group,
        resource=target.resource.plural,
        subresource=target.subresource,
        namespace=target.name if in_itself else target.namespace,
        name=target.name,
    )


class Authorizer:
    def __init__(self, store: Store) -> None:
        self._store = store

    def allows(self, user: User, access: Access) -> bool:
        if MASTERS in user.groups:
            return True
        return any(_rule_covers(rule, access) for rule in self.rules(user, access.namespace))

    def check(self, user: User, access: Access) -> None:
        if not self.allows(user, access):
            raise _refusal(user, access)

    def rules(self, user: User, namespace: str) -> Iterator[Object]:
        """All rules that hold for the user in the namespace (and in the whole cluster)."""
        for entry in self._store.all(f"{GROUP}/clusterrolebindings"):
            if _binds(entry.object, user, ""):
                yield from self._role_rules(entry.object["roleRef"], "")
        if not namespace:
            return
        for entry in self._store.all(f"{GROUP}/rolebindings", namespace):
            if _binds(entry.object, user, namespace):
                yield from self._role_rules(entry.object["roleRef"], namespace)

    def _role_rules(self, reference: Object, namespace: str) -> list[Object]:
        if reference["kind"] == "ClusterRole":
            key = Key(f"{GROUP}/clusterroles", "", reference["name"])
        else:
            key = Key(f"{GROUP}/roles", namespace, reference["name"])
        entry = self._store.get(key)
        return (entry.object.get("rules") or []) if entry else []


def _binds(binding: Object, user: User, namespace: str) -> bool:
    return any(_is_subject(subject, user, namespace) for subject in binding.get("subjects") or ())


def _is_subject(subject: Object, user: User, namespace: str) -> bool:
    match subject["kind"]:
        case "User":
            return bool(subject["name"] == user.name)
        case "Group":
            return subject["name"] in user.groups
        case "ServiceAccount":
            return user.name == f"system:serviceaccount:{subject.get('namespace') or namespace}:{subject['name']}"
        case _:
            return False


def _rule_covers(rule: Object, access: Access) -> bool:
    verbs = rule.get("verbs") or ()
    if access.verb not in verbs and "*" not in verbs:
        return False
    if access.path:
        return any(_path_matches(pattern, access.path) for pattern in rule.get("nonResourceURLs") or ())
    groups, resources, names = (rule.get(name) or () for name in ("apiGroups", "resources", "resourceNames"))
    if access.group not in groups and "*" not in groups:
        return False
    wanted = {access.full_resource, "*"} | ({f"*/{access.subresource}"} if access.subresource else set())
    return bool(wanted & set(resources)) and (not names or access.name in names)


def _path_matches(pattern: str, path: str) -> bool:
    if pattern.endswith("*"):
        return path.startswith(pattern[:-1])
    return pattern == path


def _refusal(user: User, access: Access) -> ApiError:
    if access.path:
        return forbidden_path(user.name, access.verb, access.path)
    scope = f'in the namespace "{access.namespace}"' if access.namespace else "at the cluster scope"
    why = f'User "{user.name}" cannot {access.verb} resource "{access.full_resource}" in API group "{access.group}" {scope}'
    return forbidden(Subject(access.group, access.resource, ""), access.name, why)
