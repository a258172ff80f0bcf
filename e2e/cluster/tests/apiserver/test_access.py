"""Who is who, and who may what."""

from __future__ import annotations

import base64
import json
import time

import aiohttp
import pytest

from .conftest import Answer, Client, Ground, Object, client_of, pod

RBAC = "/apis/rbac.authorization.k8s.io/v1"


async def as_user(client: Client, user: str, method: str, path: str, body: object = None, **query: str) -> Answer:
    return await client.call(method, path, body, headers={"Impersonate-User": user}, query=query)


async def with_token(ground: Ground, token: str, path: str, method: str = "GET", body: Object | None = None) -> Answer:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(ground.url, headers=headers) as session,
        session.request(method, path, json=body, ssl=False) as answer,
    ):
        return Answer(answer.status, await answer.json(), dict(answer.headers))


async def grant(client: Client, namespace: str, user: str, *rules: Object, name: str = "r") -> None:
    path = f"{RBAC}/namespaces/{namespace}"
    (await client.post(f"{path}/roles", {"metadata": {"name": name}, "rules": list(rules)})).ok()
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    subjects = [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}]
    (await client.post(f"{path}/rolebindings", {"metadata": {"name": name}, "roleRef": reference, "subjects": subjects})).ok()


@pytest.fixture
def user(namespace: str) -> str:
    return f"user-of-{namespace}"


async def test_nothing_is_allowed_unless_granted(client: Client, core: str, namespace: str, user: str) -> None:
    answer = await as_user(client, user, "GET", f"{core}/pods")
    refusal = answer.refused(403, "pods is forbidden")
    assert refusal["message"] == (
        f'pods is forbidden: User "{user}" cannot list resource "pods" in API group "" in the namespace "{namespace}"'
    )
    one = (await as_user(client, user, "GET", f"{core}/pods/p")).refused(403)
    assert one["message"].startswith('pods "p" is forbidden: User')
    (await as_user(client, user, "GET", "/api/v1/nodes")).refused(403, "at the cluster scope")
    (await as_user(client, user, "GET", "/metrics")).refused(403, f'forbidden: User "{user}" cannot get path "/metrics"')


async def test_a_role_grants_verbs_on_resources_in_its_namespace(client: Client, core: str, namespace: str, user: str) -> None:
    await grant(client, namespace, user, {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "create"]})
    (await as_user(client, user, "GET", f"{core}/pods")).ok()
    (await as_user(client, user, "POST", f"{core}/pods", pod("p"))).ok()
    assert (await as_user(client, user, "DELETE", f"{core}/pods/p")).status == 403
    assert (await as_user(client, user, "GET", f"{core}/secrets")).status == 403
    assert (await as_user(client, user, "GET", "/api/v1/namespaces/default/pods")).status == 403


async def test_a_grant_can_be_of_one_object(client: Client, core: str, namespace: str, user: str) -> None:
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"], "resourceNames": ["mine"]}
    await grant(client, namespace, user, rule)
    (await client.post(f"{core}/configmaps", {"metadata": {"name": "mine"}})).ok()
    (await as_user(client, user, "GET", f"{core}/configmaps/mine")).ok()
    assert (await as_user(client, user, "GET", f"{core}/configmaps/other")).status == 403
    assert (await as_user(client, user, "GET", f"{core}/configmaps")).status == 403
    (await as_user(client, user, "GET", f"{core}/configmaps", fieldSelector="metadata.name=mine")).ok()


async def test_a_subresource_is_granted_apart(client: Client, core: str, namespace: str, user: str) -> None:
    await grant(client, namespace, user, {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]})
    (await client.post(f"{core}/pods", pod("p"))).ok()

    async def patched(path: str) -> int:
        kind, headers = "application/merge-patch+json", {"Impersonate-User": user}
        return (await client.call("PATCH", path, {"status": {"message": "hello"}}, kind=kind, headers=headers)).status

    assert await patched(f"{core}/pods/p/status") == 200
    assert await patched(f"{core}/pods/p") == 403


async def test_a_cluster_role_can_be_granted_everywhere(client: Client, core: str, user: str) -> None:
    rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get"]}, {"nonResourceURLs": ["/some/*"], "verbs": ["get"]}]
    (await client.post(f"{RBAC}/clusterroles", {"metadata": {"name": user}, "rules": rules})).ok()
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user}
    binding = {"metadata": {"name": user}, "roleRef": reference, "subjects": [{"kind": "User", "name": user}]}
    (await client.post(f"{RBAC}/clusterrolebindings", binding)).ok()
    assert (await as_user(client, user, "GET", f"{core}/pods/none")).status == 404
    assert (await as_user(client, user, "GET", "/some/where")).status == 404
    assert (await as_user(client, user, "GET", "/other")).status == 403


async def test_everyone_may_ask_what_is_served_and_what_they_may(client: Client, namespace: str, user: str) -> None:
    (await as_user(client, user, "GET", "/apis")).ok()
    (await as_user(client, user, "GET", "/openapi/v3")).ok()
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    wanted = {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": namespace}}
    assert (await as_user(client, user, "POST", path, {"spec": wanted})).ok()["status"]["allowed"] is False
    await grant(client, namespace, user, {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]})
    assert (await as_user(client, user, "POST", path, {"spec": wanted})).ok()["status"]["allowed"] is True
    other = {"spec": {"user": user, **wanted}}
    reviewed = (await client.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", other)).ok()
    assert reviewed["status"]["allowed"] is True
    me = (await as_user(client, user, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})).ok()
    assert me["status"]["userInfo"] == {"username": user, "groups": ["system:authenticated"]}


async def test_only_who_may_impersonate_does(client: Client, ground: Ground, namespace: str, user: str) -> None:
    async with client_of(ground, ground.kubeconfig_for(user)) as own:
        answer = await own.call("GET", "/api/v1/nodes", headers={"Impersonate-User": "someone"})
        answer.refused(403, f'User "{user}" cannot impersonate')


async def test_who_shows_nothing_is_anonymous_and_who_shows_rubbish_is_refused(ground: Ground) -> None:
    async with aiohttp.ClientSession(ground.url) as session:
        async with session.get("/api/v1/pods", ssl=False) as answer:
            assert answer.status in (401, 403)
            if answer.status == 403:
                assert 'User "system:anonymous" cannot list resource "pods"' in (await answer.json())["message"]
        async with session.get("/healthz", ssl=False) as answer:
            assert answer.status in (200, 401)
    assert (await with_token(ground, "rubbish", "/api/v1/pods")).status == 401


async def request_token(client: Client, core: str, *, account: str = "default", **spec: object) -> str:
    answer = await client.post(f"{core}/serviceaccounts/{account}/token", {"spec": spec})
    return str(answer.ok()["status"]["token"])


def claims(token: str) -> Object:
    payload = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))


async def test_a_token_speaks_for_its_account(client: Client, ground: Ground, core: str, namespace: str) -> None:
    token = await request_token(client, core)
    name = f"system:serviceaccount:{namespace}:default"
    (await with_token(ground, token, f"{core}/pods")).refused(403, f'User "{name}" cannot list resource "pods"')
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    user = (await with_token(ground, token, path, "POST", {})).ok()["status"]["userInfo"]
    assert user["username"] == name
    assert set(user["groups"]) == {"system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"}
    assert claims(token)["sub"] == name and claims(token)["exp"] > time.time() + 3000


async def test_a_pods_token_names_the_pod_and_ends_with_it(client: Client, ground: Ground, core: str) -> None:
    made = (await client.post(f"{core}/pods", pod("p", serviceAccountName="default"))).ok()
    uid = made["metadata"]["uid"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid}
    token = await request_token(client, core, boundObjectRef=bound, expirationSeconds=600)
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    extra = (await with_token(ground, token, path, "POST", {})).ok()["status"]["userInfo"]["extra"]
    assert extra["authentication.kubernetes.io/pod-name"] == ["p"]
    assert extra["authentication.kubernetes.io/pod-uid"] == [uid]
    reviewed = (await client.post("/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": token}})).ok()
    assert reviewed["status"]["authenticated"] is True
    (await client.delete(f"{core}/pods/p", {"gracePeriodSeconds": 0})).ok()
    reviewed = (await client.post("/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": token}})).ok()
    # A real server remembers a token for some seconds.
    if not reviewed["status"].get("authenticated"):
        assert (await with_token(ground, token, path, "POST", {})).status == 401


async def test_a_token_outlives_the_deletion_of_its_account_while_a_finalizer_holds_that(
    client: Client, ground: Ground, core: str
) -> None:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "held", "finalizers": ["test/hold"]}}
    (await client.post(f"{core}/serviceaccounts", account)).ok()
    token = await request_token(client, core, account="held")
    (await client.delete(f"{core}/serviceaccounts/held")).ok()
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    (await with_token(ground, token, path, "POST", {})).ok()


async def test_a_token_is_for_its_audience(client: Client, ground: Ground, core: str) -> None:
    token = await request_token(client, core, audiences=["elsewhere"])
    assert (await with_token(ground, token, f"{core}/pods")).status == 401
    body = {"spec": {"token": token, "audiences": ["elsewhere"]}}
    reviewed = (await client.post("/apis/authentication.k8s.io/v1/tokenreviews", body)).ok()
    assert reviewed["status"]["authenticated"] is True and reviewed["status"]["audiences"] == ["elsewhere"]


async def test_a_token_is_not_given_for_what_is_not_there(client: Client, core: str) -> None:
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "none"}
    answer = await client.post(f"{core}/serviceaccounts/default/token", {"spec": {"boundObjectRef": bound}})
    answer.refused(404, 'pods "none" not found')
    short = await client.post(f"{core}/serviceaccounts/default/token", {"spec": {"expirationSeconds": 10}})
    short.refused(422, "may not specify a duration less than 10 minutes")


async def test_a_forged_token_is_refused(client: Client, ground: Ground, core: str) -> None:
    token = await request_token(client, core)
    header, payload, signature = token.split(".")
    forged = json.dumps({**claims(token), "sub": "system:serviceaccount:kube-system:default"}).encode()
    other = base64.urlsafe_b64encode(forged).decode().rstrip("=")
    assert (await with_token(ground, f"{header}.{other}.{signature}", f"{core}/pods")).status == 401
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    assert (await with_token(ground, f"{none}.{payload}.", f"{core}/pods")).status == 401
