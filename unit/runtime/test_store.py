from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dynvol.runtime.store import Change, Store

from .collection import Thing, thing


def owners(of: Thing) -> Iterable[str]:
    return of.owners


def a_store(*things: Thing) -> Store[Thing]:
    store: Store[Thing] = Store(indexers={"owner": owners})
    store.replace(things)
    return store


def names(things: Iterable[Thing]) -> list[str]:
    return [t.metadata.name for t in things]


def test_the_key_is_namespace_and_name() -> None:
    store = a_store(thing("a", namespace="ns"), thing("b"))
    assert store.keys() == ("ns/a", "b")
    assert store.get("ns/a") == thing("a", namespace="ns")
    assert store.get("a") is None
    assert "b" in store
    assert "c" not in store


def test_it_gives_out_the_very_object_that_it_was_given() -> None:
    given = thing("a", owners=("x",))
    store = a_store()
    store.upsert(given)
    assert store.get("a") is given
    assert store.by_index("owner", "x")[0] is given


def test_an_object_can_be_found_under_many_values_or_none() -> None:
    store = a_store(thing("many", owners=("x", "y")), thing("none"), thing("one", owners=("y",)))
    assert names(store.by_index("owner", "x")) == ["many"]
    assert names(store.by_index("owner", "y")) == ["many", "one"]
    assert store.by_index("owner", "z") == ()
    assert store.index_values("owner") == ("x", "y")


def test_an_index_follows_an_object_that_changes() -> None:
    store = a_store(thing("a", version="1", owners=("x", "y")))
    store.upsert(thing("a", version="2", owners=("y", "z")))
    assert store.by_index("owner", "x") == ()
    assert names(store.by_index("owner", "y")) == ["a"]
    assert names(store.by_index("owner", "z")) == ["a"]


def test_values_under_which_nothing_is_left_go() -> None:
    store = a_store(thing("a", owners=("x",)), thing("b", owners=("x", "y")))
    store.remove("b")
    assert store.index_values("owner") == ("x",)
    store.replace(())
    assert store.index_values("owner") == ()


def test_a_value_that_had_one_object_can_have_two_and_one_again() -> None:
    store = a_store(thing("a", owners=("x",)))
    store.upsert(thing("b", owners=("x",)))
    assert names(store.by_index("owner", "x")) == ["a", "b"]
    store.remove("a")
    store.upsert(thing("b", owners=("x",)))
    assert names(store.by_index("owner", "x")) == ["b"]
    store.remove("b")
    assert store.by_index("owner", "x") == () and store.index_values("owner") == ()


def test_an_object_filed_twice_under_a_value_can_be_unfiled() -> None:
    store = a_store(thing("a", owners=("x", "x")))
    store.remove("a")
    assert store.index_values("owner") == ()


def test_an_index_that_does_not_exist_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        a_store().by_index("colour", "red")


def test_an_indexer_that_raises_leaves_the_store_as_it_was() -> None:
    def picky(of: Thing) -> Iterable[str]:
        if of.metadata.name == "bad":
            raise ValueError
        return ("ok",)

    store: Store[Thing] = Store(indexers={"owner": owners, "picky": picky})
    store.upsert(thing("good", owners=("x",)))
    with pytest.raises(ValueError):
        store.upsert(thing("bad", owners=("x",)))
    with pytest.raises(ValueError):
        store.replace([thing("new"), thing("bad")])
    assert store.keys() == ("good",)
    assert names(store.by_index("owner", "x")) == ["good"]


def test_a_snapshot_can_be_walked_while_the_store_changes() -> None:
    store = a_store(thing("a"), thing("b"))
    for present in store:
        store.remove(present.metadata.key)
    assert len(store) == 0


def test_an_upsert_says_what_was_there_before() -> None:
    store = a_store()
    assert store.upsert(thing(version="1")) == (Change(None, thing(version="1")),)
    assert store.upsert(thing(version="2")) == (Change(thing(version="1"), thing(version="2")),)


def test_an_object_made_anew_under_the_same_name_is_a_deletion_and_an_addition() -> None:
    old, new = thing(uid="uid-1", version="1"), thing(uid="uid-2", version="5")
    assert a_store(old).upsert(new) == (Change(old, None), Change(None, new))
    assert a_store(old).replace([new]) == (Change(old, None), Change(None, new))


def test_a_removal_says_what_was_last_known() -> None:
    store = a_store(thing("a", version="3"))
    assert store.remove("a") == (Change(thing("a", version="3"), None),)
    assert store.remove("a") == ()


def test_a_replacement_tells_deletions_first_then_upserts_and_nothing_of_what_is_the_same() -> None:
    gone, same, changed = thing("gone", version="1"), thing("same", version="2"), thing("changed", version="3")
    store = a_store(changed, gone, same)
    newer, new = thing("changed", version="7"), thing("new", version="8")
    assert store.replace([new, same, newer]) == (Change(gone, None), Change(None, new), Change(changed, newer))


def test_a_change_knows_its_key() -> None:
    assert Change(None, thing("a", namespace="ns")).key == "ns/a"
    assert Change(thing("a", namespace="ns"), None).key == "ns/a"


class StoreMachine(RuleBasedStateMachine):
    """The store against a dict, and its index against a search."""

    def __init__(self) -> None:
        super().__init__()
        self.store = a_store()
        self.model: dict[str, Thing] = {}

    things = st.builds(
        thing,
        st.sampled_from("abc"),
        version=st.sampled_from("123"),
        uid=st.sampled_from(["uid-1", "uid-2"]),
        owners=st.lists(st.sampled_from("xyz"), max_size=3).map(tuple),
    )

    def follow(self, changes: tuple[Change[Thing], ...]) -> None:
        """What is told must lead from the old state to the new: a handler that keeps a copy has the right one."""
        for change in changes:
            assert change.old == self.model.get(change.key)
            if change.new is None:
                del self.model[change.key]
            else:
                assert change.old is None or change.old.metadata.uid == change.new.metadata.uid
                self.model[change.key] = change.new

    @rule(new=things)
    def upsert(self, new: Thing) -> None:
        self.follow(self.store.upsert(new))
        assert self.model[new.metadata.key] == new

    @rule(key=st.sampled_from("abc"))
    def remove(self, key: str) -> None:
        self.follow(self.store.remove(key))
        assert key not in self.model

    @rule(new=st.lists(things, unique_by=lambda t: t.metadata.key))
    def replace(self, new: list[Thing]) -> None:
        before = dict(self.model)
        self.follow(self.store.replace(new))
        for wanted in new:
            # What has the same uid and version is the same, whatever a test makes up.
            old = before.get(wanted.metadata.key)
            if old is not None and old.metadata == wanted.metadata:
                self.model[wanted.metadata.key] = wanted
        assert self.model == {t.metadata.key: t for t in new}

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        assert {t.metadata.key: t for t in self.store} == self.model

    @invariant()
    def the_index_finds_what_a_search_finds(self) -> None:
        for value in "xyz":
            found = {t.metadata.key for t in self.store.by_index("owner", value)}
            assert found == {key for key, t in self.model.items() if value in t.owners}
        assert set(self.store.index_values("owner")) == {value for t in self.model.values() for value in t.owners}


TestStoreModel = StoreMachine.TestCase
TestStoreModel.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
