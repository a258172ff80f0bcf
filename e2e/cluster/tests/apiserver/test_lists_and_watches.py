"""Lists are consistent and paged; watches miss nothing, say nothing twice, and tell when they can no longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from .conftest import Answer, Client, Object, new_namespace, pod


async def make(client: Client, core: str, *names: str, **labels: str) -> list[Object]:
    bodies = [{"metadata": {"name": name, "labels": labels}} for name in names]
    return [(await client.post(f"{core}/configmaps", body)).ok() for body in bodies]


async def take(events: AsyncIterator[Object], count: int) -> list[Object]:
    async with asyncio.timeout(10):
        return [await anext(events) for _ in range(count)]


def told(events: list[Object]) -> list[tuple[str, str]]:
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]


def names(answer: Answer) -> list[str]:
    return [item["metadata"]["name"] for item in answer.ok()["items"]]


async def test_a_list_comes_in_pages_of_one_version(client: Client, core: str) -> None:
    await make(client, core, "a", "b", "c")
    first = await client.get(f"{core}/configmaps", limit="2")
    assert names(first) == ["a", "b"]
    meta = first.body["metadata"]
    assert meta["remainingItemCount"] == 1
    # What comes meanwhile is not in the later pages.
    await make(client, core, "bb", "d")
    second = await client.get(f"{core}/configmaps", **{"limit": "2", "continue": meta["continue"]})
    assert names(second) == ["c"]
    assert second.body["metadata"]["resourceVersion"] == meta["resourceVersion"]
    assert "continue" not in second.body["metadata"]


async def test_a_list_can_be_of_an_exact_version(client: Client, core: str) -> None:
    (made,) = await make(client, core, "a")
    await make(client, core, "b")
    version = made["metadata"]["resourceVersion"]
    then = await client.get(f"{core}/configmaps", resourceVersion=version, resourceVersionMatch="Exact")
    assert names(then) == ["a"]


async def test_a_version_that_is_not_yet_is_too_large(client: Client, core: str) -> None:
    answer = await client.get(f"{core}/configmaps", resourceVersion="999999999", resourceVersionMatch="NotOlderThan")
    refusal = answer.refused(504, "Too large resource version")
    assert refusal["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("app=a", ["one"]),
        ("app!=a", ["three", "two"]),
        ("app in (a,b)", ["one", "two"]),
        ("app notin (a,b)", ["three"]),
        ("app", ["one", "two"]),
        ("!app", ["three"]),
        ("app in (a, b),tier==x", ["one"]),
    ],
)
async def test_labels_select(client: Client, core: str, selector: str, found: list[str]) -> None:
    for name, labels in (("one", {"app": "a", "tier": "x"}), ("two", {"app": "b"}), ("three", {})):
        (await client.post(f"{core}/secrets", {"metadata": {"name": name, "labels": labels}})).ok()
    assert names(await client.get(f"{core}/secrets", labelSelector=selector)) == found


async def test_fields_select(client: Client, core: str) -> None:
    (await client.post(f"{core}/pods", pod("here", nodeName="n1"))).ok()
    (await client.post(f"{core}/pods", pod("there", nodeName="n2"))).ok()
    (await client.post(f"{core}/pods", pod("nowhere"))).ok()
    assert names(await client.get(f"{core}/pods", fieldSelector="spec.nodeName=n1")) == ["here"]
    assert names(await client.get(f"{core}/pods", fieldSelector="spec.nodeName=")) == ["nowhere"]
    assert names(await client.get(f"{core}/pods", fieldSelector="spec.nodeName!=n1,status.phase=Pending")) == ["nowhere", "there"]
    (await client.get(f"{core}/pods", fieldSelector="spec.nonsense=1")).refused(400, "field label not supported: spec.nonsense")


async def test_a_bad_selector_is_refused(client: Client, core: str) -> None:
    (await client.get(f"{core}/pods", labelSelector="a in b")).refused(400, "unable to parse requirement")


async def test_a_watch_tells_what_happens_from_a_version_on(client: Client, core: str) -> None:
    (first,) = await make(client, core, "a")
    await make(client, core, "b")
    async with client.watch(f"{core}/configmaps", resourceVersion=first["metadata"]["resourceVersion"]) as events:
        assert told(await take(events, 1)) == [("ADDED", "b")]
        (await client.merge_patch(f"{core}/configmaps/a", {"data": {"k": "v"}})).ok()
        (await client.delete(f"{core}/configmaps/b")).ok()
        seen = await take(events, 2)
        assert told(seen) == [("MODIFIED", "a"), ("DELETED", "b")]
        versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in seen]
        assert versions == sorted(versions)


async def test_a_watch_from_nowhere_begins_with_what_is_there(client: Client, core: str) -> None:
    await make(client, core, "a", "b")
    async with client.watch(f"{core}/configmaps") as events:
        assert sorted(told(await take(events, 2))) == [("ADDED", "a"), ("ADDED", "b")]


async def test_a_streamed_list_ends_with_a_bookmark(client: Client, core: str) -> None:
    await make(client, core, "a", "b")
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    async with client.watch(f"{core}/configmaps", **query) as events:
        seen = await take(events, 3)
        assert sorted(told(seen[:2])) == [("ADDED", "a"), ("ADDED", "b")]
        end = seen[2]
        assert end["type"] == "BOOKMARK" and end["object"]["kind"] == "ConfigMap"
        assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        await make(client, core, "c")
        assert told(await take(events, 1)) == [("ADDED", "c")]


async def test_a_streamed_list_must_be_asked_for_rightly(client: Client, core: str) -> None:
    answer = await client.get(f"{core}/configmaps", watch="true", sendInitialEvents="true")
    answer.refused(422, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")


async def test_a_selected_watch_sees_what_comes_to_match_and_ceases_to(client: Client, core: str) -> None:
    (made,) = await make(client, core, "a", on="no")
    path = f"{core}/configmaps"
    async with client.watch(path, labelSelector="on=yes", resourceVersion=made["metadata"]["resourceVersion"]) as events:
        for value in ("yes", "no", "yes"):
            (await client.merge_patch(f"{path}/a", {"metadata": {"labels": {"on": value}}})).ok()
        (await client.delete(f"{path}/a")).ok()
        seen = await take(events, 4)
        assert told(seen) == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "a"), ("DELETED", "a")]
        # The object is told as it last matched, at the version at which it ceased to.
        assert seen[1]["object"]["metadata"]["labels"] == {"on": "yes"}
        assert int(seen[1]["object"]["metadata"]["resourceVersion"]) > int(seen[0]["object"]["metadata"]["resourceVersion"])


async def test_a_watch_can_be_of_one_object(client: Client, core: str) -> None:
    made = await make(client, core, "a", "b")
    version = made[1]["metadata"]["resourceVersion"]
    async with client.watch(f"{core}/configmaps", fieldSelector="metadata.name=a", resourceVersion=version) as events:
        (await client.delete(f"{core}/configmaps/b")).ok()
        (await client.delete(f"{core}/configmaps/a")).ok()
        assert told(await take(events, 1)) == [("DELETED", "a")]


async def test_a_watch_ends_when_its_time_is_over(client: Client, core: str) -> None:
    async with client.watch(f"{core}/configmaps", timeoutSeconds="1") as events, asyncio.timeout(10):
        assert [event async for event in events] == []


async def test_a_watch_from_a_version_that_is_forgotten_is_expired(own_client: Client) -> None:
    core = f"/api/v1/namespaces/{await new_namespace(own_client)}"
    (made,) = await make(own_client, core, "a")
    (await own_client.post("/debug/compact", None)).ok()
    await make(own_client, core, "b")
    version = made["metadata"]["resourceVersion"]
    refusal = (await own_client.get(f"{core}/configmaps", watch="true", resourceVersion="1")).refused(
        410, "too old resource version: 1"
    )
    assert refusal["reason"] == "Expired"
    async with own_client.watch(f"{core}/configmaps", resourceVersion=version) as events:
        assert told(await take(events, 1)) == [("ADDED", "b")]


async def test_a_page_of_a_version_that_is_forgotten_is_expired(own_client: Client) -> None:
    core = f"/api/v1/namespaces/{await new_namespace(own_client)}"
    await make(own_client, core, "a", "b", "c")
    token = (await own_client.get(f"{core}/configmaps", limit="1")).ok()["metadata"]["continue"]
    await make(own_client, core, "d")
    (await own_client.post("/debug/compact", None)).ok()
    refusal = (await own_client.get(f"{core}/configmaps", **{"continue": token})).refused(
        410, "too old to display a consistent list"
    )
    # The token that comes with the refusal goes on from there, in the present.
    rest = await own_client.get(f"{core}/configmaps", **{"continue": refusal["metadata"]["continue"]})
    assert names(rest) == ["b", "c", "d"]


async def test_a_list_can_be_a_table(client: Client, core: str) -> None:
    (await client.post(f"{core}/pods", pod("p"))).ok()
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
    table = (await client.call("GET", f"{core}/pods", headers=accept)).ok()
    assert table["kind"] == "Table"
    shown = [(c["name"], c["priority"]) for c in table["columnDefinitions"]]
    assert shown == [
        ("Name", 0),
        ("Ready", 0),
        ("Status", 0),
        ("Restarts", 0),
        ("Age", 0),
        ("IP", 1),
        ("Node", 1),
        ("Nominated Node", 1),
        ("Readiness Gates", 1),
    ]
    row = table["rows"][0]
    assert row["cells"][:4] == ["p", "0/1", "Pending", "0"]
    assert row["object"]["kind"] == "PartialObjectMetadata" and row["object"]["metadata"]["name"] == "p"


async def test_a_list_can_be_of_metadata_only(client: Client, core: str) -> None:
    await make(client, core, "a")
    accept = {"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}
    found = (await client.call("GET", f"{core}/configmaps", headers=accept, query={"fieldSelector": "metadata.name=a"})).ok()
    assert found["kind"] == "PartialObjectMetadataList"
    assert [set(item) for item in found["items"]] == [{"kind", "apiVersion", "metadata"}] or [
        set(item) for item in found["items"]
    ] == [{"metadata"}]


async def test_a_quiet_watch_is_told_the_time_by_bookmarks(own_client: Client) -> None:
    core = f"/api/v1/namespaces/{await new_namespace(own_client)}"
    await make(own_client, core, "a")
    version = (await own_client.get(f"{core}/configmaps")).ok()["metadata"]["resourceVersion"]
    query = {"allowWatchBookmarks": "true", "timeoutSeconds": "1", "resourceVersion": version}
    async with own_client.watch(f"{core}/configmaps", **query) as events, asyncio.timeout(10):
        (last,) = [event async for event in events]
    assert last["type"] == "BOOKMARK" and int(last["object"]["metadata"]["resourceVersion"]) >= int(version)
