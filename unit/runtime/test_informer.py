from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from dynvol.runtime.errors import Expired, Unavailable
from dynvol.runtime.informer import Informer
from dynvol.runtime.source import Bookmark, Page, Unreadable
from dynvol.runtime.store import Change

from .collection import Collection, OldServer, Thing
from .tasks import pass_time, running, settle

pytestmark = pytest.mark.looptime


def owners(of: Thing) -> Iterable[str]:
    return of.owners


def an_informer(server: Collection, *, streaming: bool = True, **more: Any) -> Informer[Thing]:
    return Informer(server, name="things", indexers={"owner": owners}, streaming=streaming, chance=lambda: 0.0, **more)


@asynccontextmanager
async def following(server: Collection, **more: Any) -> AsyncIterator[Informer[Thing]]:
    informer = an_informer(server, **more)
    async with running(informer.run()):
        await informer.synced()
        await settle()
        yield informer


class Copy:
    """A handler that keeps its own idea of the world from nothing but what it is told, and notes what does not fit into it."""

    def __init__(self) -> None:
        self.objects: dict[str, Thing] = {}
        self.told: list[str] = []

    def __call__(self, change: Change[Thing]) -> None:
        if change.old != self.objects.get(change.key):
            self.told.append(f"surprise {change.key}")
        if change.new is None:
            del self.objects[change.key]
        else:
            self.objects[change.key] = change.new
        verb = "delete" if change.new is None else "add" if change.old is None else "update"
        self.told.append(f"{verb} {change.key}{' at first' if change.initial else ''}")


both_ways_to_list = pytest.mark.parametrize("streaming", [True, False], ids=["streamed", "paged"])


@both_ways_to_list
async def test_the_store_follows_the_server(streaming: bool) -> None:
    server = Collection()
    server.put("a")
    server.put("b")
    async with following(server, streaming=streaming) as informer:
        assert {t.metadata.key: t for t in informer.store} == server.objects
        server.put("c")
        server.put("a")
        server.delete("b")
        await settle()
        assert {t.metadata.key: t for t in informer.store} == server.objects
        assert informer.store.keys() == ("a", "c")


@both_ways_to_list
async def test_what_happened_while_nobody_listened_is_told_after_the_next_list(streaming: bool) -> None:
    server, copy = Collection(), Copy()
    for name in "abc":
        server.put(name)
    async with following(server, streaming=streaming) as informer:
        informer.add_handler(copy)
        server.fail("watch", Unavailable())
        server.cut(Unavailable())
        await settle()
        server.delete("a")
        server.put("b")
        server.put("d")
        server.forget()
        copy.told.clear()
        await pass_time(10)
        assert copy.told == ["delete a", "update b", "add d"]
        assert copy.objects == server.objects


async def test_on_a_replacement_the_store_changes_first_then_deletions_are_told_then_the_rest() -> None:
    server = Collection()
    server.put("gone")
    server.put("changed")
    seen: list[tuple[str, tuple[str, ...]]] = []
    async with following(server) as informer:
        informer.add_handler(lambda change: None if change.initial else seen.append((change.key, informer.store.keys())))
        server.fail("watch", Unavailable())
        server.cut(Unavailable())
        await settle()
        last_known = informer.store.get("gone")
        server.delete("gone")
        server.put("changed")
        server.put("new")
        server.forget()
        deleted: list[Thing | None] = []
        informer.add_handler(lambda change: deleted.append(change.old) if change.new is None else None)
        await pass_time(10)
    now = ("changed", "new")
    assert seen == [("gone", now), ("changed", now), ("new", now)]
    assert deleted == [last_known]


@both_ways_to_list
async def test_an_object_made_anew_unseen_is_told_as_a_deletion_and_an_addition(streaming: bool) -> None:
    server, copy = Collection(), Copy()
    old = server.put("a")
    async with following(server, streaming=streaming) as informer:
        informer.add_handler(copy)
        server.fail("watch", Unavailable())
        server.cut(Unavailable())
        await settle()
        server.delete("a")
        new = server.put("a")
        server.forget()
        await pass_time(10)
        assert old.metadata.uid != new.metadata.uid
        assert copy.told == ["add a at first", "delete a", "add a"]


async def test_an_update_to_another_uid_is_told_as_a_deletion_and_an_addition() -> None:
    server, copy = Collection(), Copy()
    server.put("a")
    async with following(server) as informer:
        informer.add_handler(copy)
        server.objects.clear()
        server.put("a")
        await settle()
        assert copy.told == ["add a at first", "delete a", "add a"]


async def test_the_store_and_its_indexes_have_changed_before_handlers_hear_of_it() -> None:
    server = Collection()
    found: list[tuple[list[str], list[str]]] = []

    async with following(server) as informer:

        def look(change: Change[Thing]) -> None:
            x, y = ([t.metadata.name for t in informer.store.by_index("owner", value)] for value in "xy")
            found.append((x, y))

        informer.add_handler(look)
        server.put("a", owners=("x",))
        await settle()
        server.put("a", owners=("y",))
        await settle()
        server.delete("a")
        await settle()
    assert found == [(["a"], []), ([], ["a"]), ([], [])]


async def test_the_changes_of_a_key_come_in_order() -> None:
    server = Collection()
    versions: list[int] = []
    async with following(server) as informer:
        informer.add_handler(lambda change: versions.append(int(change.new.metadata.resource_version) if change.new else -1))
        for _ in range(50):
            server.put("a")
        server.delete("a")
        await settle()
    assert versions == [*range(101, 151), -1]


async def test_a_late_handler_is_told_what_is_there_and_then_what_happens_with_no_gap() -> None:
    server, late = Collection(), Copy()
    server.put("a")
    async with following(server) as informer:
        server.put("b")
        await settle()
        server.put("c")
        informer.add_handler(late)
        server.put("b")
        await settle()
        assert late.told == ["add a at first", "add b at first", "add c", "update b"]
        assert late.objects == server.objects


async def test_a_handler_that_is_added_by_a_handler_misses_nothing_and_hears_nothing_twice() -> None:
    server, late = Collection(), Copy()
    async with following(server) as informer:
        added: list[object] = []

        def add_another(change: Change[Thing]) -> None:
            if not added:
                added.append(informer.add_handler(late))

        informer.add_handler(add_another)
        server.put("a")
        server.put("b")
        await settle()
        assert late.told == ["add a at first", "add b"]


async def test_a_handler_that_is_added_in_the_middle_of_a_replacement_hears_nothing_twice() -> None:
    server, late = Collection(), Copy()
    server.put("a")
    server.put("b")
    informer = an_informer(server)
    added: list[object] = []

    def add_another(change: Change[Thing]) -> None:
        if not added:
            added.append(informer.add_handler(late))

    informer.add_handler(add_another)
    async with running(informer.run()):
        await informer.synced()
        assert late.told == ["add a at first", "add b at first"]
        server.put("a")
        await settle()
        assert late.told[2:] == ["update a"]


async def test_synced_means_that_handlers_have_seen_the_first_list() -> None:
    server, copy = Collection(), Copy()
    for name in "abc":
        server.put(name)
    informer = an_informer(server)
    informer.add_handler(copy)
    seen_when_synced: list[int] = []

    async def wait() -> None:
        await informer.synced()
        seen_when_synced.append(len(copy.objects))

    async with running(wait()), running(informer.run()):
        assert not informer.has_synced
        await settle()
        assert informer.has_synced
    assert seen_when_synced == [3]


async def test_it_is_not_synced_before_the_last_page() -> None:
    server = Collection()
    for number in range(700):
        server.put(f"{number:03}")
    server.fail("list", Unavailable(), Unavailable())
    informer = an_informer(server, streaming=False)
    async with running(informer.run()):
        await settle()
        assert (informer.has_synced, len(informer.store)) == (False, 0)
        await pass_time(10)
        assert (informer.has_synced, len(informer.store)) == (True, 700)


async def test_only_the_first_list_is_initial() -> None:
    server, copy = Collection(), Copy()
    informer = an_informer(server)
    informer.add_handler(copy)
    async with running(informer.run()):
        server.put("a")
        await settle()
        server.fail("watch", Expired())
        server.cut(Unavailable())
        server.put("b")
        await pass_time(10)
    assert copy.told == ["add a at first", "add b"]


async def test_a_list_that_breaks_off_leaves_the_store_as_it_was() -> None:
    server = Collection()
    for number in range(700):
        server.put(f"{number:03}")
    async with following(server, streaming=False) as informer:
        before = informer.store.keys()
        server.put("more")
        server.cut(Expired())
        server.fail("list", Unavailable())
        server.delete("000")
        await pass_time(0.5)
        assert informer.store.keys() == (*before, "more")
        await pass_time(1)
        assert "000" not in informer.store


async def test_what_a_list_brought_that_was_begun_anew_is_void() -> None:
    class Forgetful(Collection):
        """Between the first page and the second, an object goes and the versions are compacted."""

        async def list(self, *, resource_version: str, limit: int, continue_token: str = "") -> Page[Thing]:
            if continue_token and "000" in self.objects:
                self.delete("000")
                self.forget()
            return await super().list(resource_version=resource_version, limit=limit, continue_token=continue_token)

    server = Forgetful()
    for number in range(700):
        server.put(f"{number:03}")
    async with following(server, streaming=False) as informer:
        assert {t.metadata.key: t for t in informer.store} == server.objects
        assert "000" not in informer.store


async def test_a_handler_that_raises_loses_that_one_notification_and_costs_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    server, copy = Collection(), Copy()
    heard: list[str] = []

    def picky(change: Change[Thing]) -> None:
        if change.key == "b":
            raise ValueError("I do not like b")
        heard.append(change.key)

    async with following(server) as informer:
        informer.add_handler(picky)
        informer.add_handler(copy)
        for name in "abc":
            server.put(name)
        await settle()
        assert heard == ["a", "c"]
        assert copy.objects == server.objects == {t.metadata.key: t for t in informer.store}
    assert [(record.levelno, record.__dict__["key"]) for record in caplog.records] == [(logging.ERROR, "b")]


async def test_a_handler_cannot_be_a_coroutine_function() -> None:
    async def handler(change: Change[Thing]) -> None: ...

    with pytest.raises(TypeError, match="enqueues"):
        an_informer(Collection()).add_handler(handler)  # type: ignore[arg-type]


async def test_a_handler_that_is_removed_hears_nothing_more() -> None:
    server, copy = Collection(), Copy()
    async with following(server) as informer:
        registration = informer.add_handler(copy)
        server.put("a")
        await settle()
        registration.remove()
        registration.remove()
        server.put("b")
        await settle()
    assert copy.told == ["add a"]


async def test_a_handler_that_is_removed_by_another_is_not_told_of_the_same_change() -> None:
    server, copy = Collection(), Copy()
    async with following(server) as informer:
        informer.add_handler(lambda change: registration.remove())
        registration = informer.add_handler(copy)
        server.put("a")
        await settle()
    assert copy.told == []


async def test_all_who_look_are_given_the_same_object_and_nobody_changes_it() -> None:
    server = Collection()
    seen: list[Thing | None] = []
    async with following(server) as informer:
        informer.add_handler(lambda change: seen.append(change.new))
        informer.add_handler(lambda change: seen.append(change.new))
        sent = server.put("a", owners=("x",))
        await settle()
        assert [one is sent for one in (*seen, informer.store.get("a"), *informer.store.by_index("owner", "x"))] == [True] * 4


async def test_fields_that_are_not_needed_are_not_kept() -> None:
    def slim(arrived: Thing) -> Thing:
        return replace(arrived, ballast="")

    class Heavy(Collection):
        def put(self, name: str, *, owners: tuple[str, ...] = ()) -> Thing:
            self.objects[name] = replace(super().put(name, owners=owners), ballast="x" * 100_000)
            return self.objects[name]

    server = Heavy()
    server.put("a")
    async with following(server, streaming=False, transform=slim) as informer:
        assert [(kept.metadata.name, kept.ballast) for kept in informer.store] == [("a", "")]


async def test_an_object_that_cannot_be_transformed_is_kept_whole_rather_than_lost(caplog: pytest.LogCaptureFixture) -> None:
    def broken(arrived: Thing) -> Thing:
        raise ValueError

    server = Collection()
    sent = server.put("a")
    async with following(server, transform=broken) as informer:
        assert informer.store.get("a") is sent
    assert [record.__dict__["key"] for record in caplog.records] == ["a"]


async def test_an_object_that_an_indexer_chokes_on_is_kept_and_filed_under_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def first_owner(of: Thing) -> Iterable[str]:
        return (of.owners[0],)

    server = Collection()
    server.put("orphan")
    server.put("child", owners=("x",))
    informer: Informer[Thing] = Informer(server, name="things", indexers={"first": first_owner})
    async with running(informer.run()):
        await informer.synced()
        assert informer.store.keys() == ("orphan", "child")
        assert informer.store.index_values("first") == ("x",)
    assert [record.__dict__["key"] for record in caplog.records] == ["orphan"]


async def test_an_object_that_has_become_unreadable_is_not_taken_for_gone() -> None:
    class Garbling(Collection):
        """Sends `b` in a form that does not decode."""

        async def list(self, *, resource_version: str, limit: int, continue_token: str = "") -> Page[Thing]:
            page = await super().list(resource_version=resource_version, limit=limit, continue_token=continue_token)
            readable = tuple(item for item in page.items if item.metadata.name != "b" or len(self.lists) == 1)
            return replace(page, items=readable, unreadable=("b", "c"))

    server, copy = Garbling(), Copy()
    server.put("a")
    last_known = server.put("b")
    async with following(server, streaming=False) as informer:
        informer.add_handler(copy)
        server.tell(Unreadable("b has no spec", key="b"))
        await settle()
        assert informer.store.get("b") == last_known
        server.cut(Expired())
        await settle()
        assert len(server.lists) == 2
        assert informer.store.keys() == ("a", "b")
        assert copy.told == ["add a at first", "add b at first"]


async def test_what_is_deleted_while_a_list_streams_in_is_not_in_it() -> None:
    server, copy = OldServer(), Copy()
    informer = an_informer(server)
    informer.add_handler(copy)
    async with running(informer.run()):
        await settle()
        server.put("a")
        server.put("b")
        server.delete("a")
        await settle()
        assert len(informer.store) == 0
        server.tell(Bookmark(str(server.version), initial_events_end=True))
        await settle()
        assert informer.store.keys() == ("b",)
        assert copy.told == ["add b at first"]


async def test_it_knows_whether_something_may_be_missing() -> None:
    server = Collection()
    async with following(server) as informer:
        assert informer.watching
        server.cut(Expired())
        await settle()
        assert not informer.watching
        await pass_time(1)
        assert informer.watching
