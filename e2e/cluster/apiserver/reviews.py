"""Questions that are asked by creating an object which is answered and not stored: who am I, may I, whose token is this."""

from __future__ import annotations

from e2e.cluster.apiserver.authn import AUDIENCE, Tokens
from e2e.cluster.apiserver.authz import Access, Authorizer
from e2e.cluster.apiserver.request import Target, User
from e2e.cluster.apiserver.status import ApiError, Object, bad_request


class Reviews:
    def __init__(self, authorizer: Authorizer, tokens: Tokens) -> None:
        self._authorizer = authorizer
        self._tokens = tokens

    def is_review(self, target: Target) -> bool:
        return target.resource.kind.endswith("Review") and target.resource.verbs == ("create",)

    def answer(self, target: Target, asking: User, body: Object) -> Object:
        spec = body.get("spec") or {}
        match target.resource.kind:
            case "TokenReview":
                status = self._token(spec)
            case "SelfSubjectReview":
                status = {"userInfo": asking.info()}
            case "SelfSubjectAccessReview":
                status = self._access(asking, spec)
            case "SubjectAccessReview" | "LocalSubjectAccessReview":
                status = self._access(_subject(spec), spec)
            case "SelfSubjectRulesReview":
                status = self._rules(asking, spec.get("namespace", ""))
            case other:
                raise bad_request(f"{other} is not served")
        return {
            "kind": target.resource.kind,
            "apiVersion": target.resource.api_version,
            "metadata": body.get("metadata") or {"creationTimestamp": None},
            "spec": spec,
            "status": status,
        }

    def _token(self, spec: Object) -> Object:
        audiences = spec.get("audiences") or [AUDIENCE]
        try:
            user = self._tokens.user(spec.get("token", ""), audiences=audiences)
        except ApiError:
            return {"user": {}, "error": "invalid bearer token"}
        return {"authenticated": True, "user": user.info(), "audiences": audiences}

    def _access(self, user: User, spec: Object) -> Object:
        allowed = self._authorizer.allows(user, _access_of(spec))
        return {"allowed": allowed, **({} if allowed else {"reason": "no rule of RBAC allows it"})}

    def _rules(self, user: User, namespace: str) -> Object:
        rules = list(self._authorizer.rules(user, namespace))
        resources = [
            {name: rule[name] for name in ("verbs", "apiGroups", "resources", "resourceNames") if rule.get(name)}
            for rule in rules
            if rule.get("resources")
        ]
        paths = [
            {"verbs": rule["verbs"], "nonResourceURLs": rule["nonResourceURLs"]} for rule in rules if rule.get("nonResourceURLs")
        ]
        return {"resourceRules": resources, "nonResourceRules": paths, "incomplete": False}


def _access_of(spec: Object) -> Access:
    if wanted := spec.get("nonResourceAttributes"):
        return Access(verb=wanted.get("verb", ""), path=wanted.get("path", ""))
    wanted = spec.get("resourceAttributes")
    if not wanted:
        raise bad_request("exactly one of nonResourceAttributes or resourceAttributes must be specified")
    names = ("verb", "group", "resource", "subresource", "namespace", "name")
    return Access(**{name: wanted.get(name) or "" for name in names})


def _subject(spec: Object) -> User:
    extra = {key: tuple(values) for key, values in (spec.get("extra") or {}).items()}
    return User(name=spec.get("user", ""), groups=tuple(spec.get("groups") or ()), uid=spec.get("uid", ""), extra=extra)
