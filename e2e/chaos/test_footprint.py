"""What counts as grown, and who is compared with whom."""

from __future__ import annotations

from e2e.chaos.footprint import ALLOWED, _note, _role, grown


def of(node_1: int, node_2: int, *, leader: str) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for node, count in (("node-1", node_1), ("node-2", node_2)):
        _note(found, _role(node, leader), "file descriptors", count)
    return found


def test_what_a_leader_holds_is_compared_with_what_a_leader_held() -> None:
    before = of(34, 21, leader="node-1")
    assert not list(grown(before, of(21, 34, leader="node-2")))
    assert list(grown(before, of(34, 21, leader="node-2"))) == [
        "a node process that does not lead holds 34 file descriptors; before it was 21"
    ]


def test_what_is_held_beyond_what_is_allowed_has_grown() -> None:
    most = 34 + ALLOWED["file descriptors"]
    assert not list(grown(of(34, 21, leader="node-1"), of(most, 21, leader="node-1")))
    assert len(list(grown(of(34, 21, leader="node-1"), of(most + 1, 21, leader="node-1")))) == 1
