"""What each client is told that it may use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynvol.mounter.limits import Memory

MIB = 1 << 20


def expecting(*sources: str, limit: int | None = 128 * MIB) -> Memory:
    memory = Memory(limit)
    for source in sources:
        memory.expect(source)
    return memory


def test_one_alone_has_three_quarters_of_what_the_mounter_leaves() -> None:
    assert expecting("a").take("a", 0) == 78 * MIB


def test_those_that_start_together_get_about_the_same_and_something_is_left_for_one_that_comes_later() -> None:
    memory = expecting("a", "b", limit=512 * MIB)
    shares = [memory.take(source, 0) or 0 for source in "ab"]
    assert min(shares) > max(shares) * 0.7
    memory.expect("c")
    shares.append(memory.take("c", 0) or 0)
    assert shares[2] > 16 * MIB and sum(shares) < 488 * MIB


def test_a_client_that_starts_again_has_what_is_free_then() -> None:
    memory = expecting("a", "b")
    first, _ = memory.take("a", 0), memory.take("b", 0)
    memory.give_back("b", 0)
    memory.forget("b")
    assert (memory.take("a", 0) or 0) > (first or 0)


@given(st.integers(50, 4096), st.lists(st.sampled_from("abcdef"), unique=True, min_size=1))
def test_no_more_is_dealt_out_than_there_is_unless_by_what_each_needs(limit: int, sources: list[str]) -> None:
    memory = expecting(*sources, limit=limit * MIB)
    shares = [memory.take(source, number) or 0 for source in sources for number in (0, 1)]
    assert min(shares) >= 16 * MIB
    assert sum(share for share in shares if share > 16 * MIB) <= (limit - 24) * MIB


def test_where_nothing_is_limited_nothing_is_dealt_out() -> None:
    memory = expecting("a", limit=None)
    assert memory.take("a", 0) is memory.least is None
