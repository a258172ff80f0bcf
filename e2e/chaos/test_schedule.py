"""Same seed, same schedule; nothing that cannot be."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

from e2e.chaos import guests
from e2e.chaos.faults import FAULTS
from e2e.chaos.run import Run
from e2e.chaos.schedule import Kind, draw

KINDS = [fault.kind for fault in FAULTS]


def test_the_same_seed_gives_the_same_schedule_and_another_another() -> None:
    def drawn(seed: str) -> object:
        return draw(KINDS, seed=seed, seconds=600, every=5)

    assert drawn("7") == drawn("7")
    assert drawn("7") != drawn("8")


def test_a_seed_means_the_same_on_every_machine_and_tomorrow() -> None:
    (first, *_) = draw([Kind("a", "x", (1, 9)), Kind("b", "x")], seed="seed", seconds=100, every=10)
    assert (first.at, first.kind, first.hold, round(first.pick, 6)) == (4.94, "a", 1.38, 0.043252)


def test_every_kind_comes_about_as_often_as_any_other() -> None:
    counts = Counter(stroke.kind for stroke in draw(KINDS, seed="1", seconds=1800, every=4))
    assert counts.keys() == {kind.name for kind in KINDS}
    assert min(counts.values()) > 0.7 * max(counts.values())


def test_strokes_of_one_lane_never_overlap() -> None:
    lanes = {kind.name: kind.lane for kind in KINDS}
    by_lane = defaultdict(list)
    for stroke in draw(KINDS, seed="3", seconds=1800, every=2):
        by_lane[lanes[stroke.kind]].append(stroke)
    assert len(by_lane) > 5
    for strokes in by_lane.values():
        assert all(one.at + one.hold <= other.at + 0.02 for one, other in pairwise(strokes))


def test_all_is_healed_when_the_time_is_over() -> None:
    for seconds in (20, 75, 1800):
        assert all(stroke.at + stroke.hold <= seconds + 0.01 for stroke in draw(KINDS, seed="1", seconds=seconds, every=3))


def test_a_pick_chooses_one_of_those_that_there_are() -> None:
    strokes = draw(KINDS, seed="1", seconds=600, every=1)
    assert {stroke.choose(3) for stroke in strokes} == {0, 1, 2}
    assert {stroke.choose(1) for stroke in strokes} == {0}


def test_a_run_strikes_with_every_fault_that_there_is(tmp_path) -> None:  # type: ignore[no-untyped-def]
    run = Run(tmp_path, seconds=75, seed="1")
    assert {stroke.kind for stroke in run.strokes} == {kind.name for kind in KINDS}
    assert {stroke.kind for stroke in run.visits} == {kind.name for kind in guests.KINDS}
