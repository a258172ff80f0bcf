"""When a pod that does not end has had its time, and when it has not."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from dynvol.api.core import Node, NodeCondition, NodeStatus, Pod
from dynvol.api.meta import ObjectMeta
from dynvol.controllers.overdue import LOOK_AGAIN, OVERDUE
from dynvol.controllers.view import NodeView
from dynvol.runtime.watcher import Applied, Removed

from .objects import NODE, claim, pod
from .test_matching import view

pytestmark = pytest.mark.looptime


def deleted(*, grace: int | None = 5, phase: str = "Running") -> Pod:
    made = pod(deleting=True, phase=phase)
    return msgspec.structs.replace(made, metadata=msgspec.structs.replace(made.metadata, deletion_grace_period_seconds=grace))


def say_of_node(made: NodeView, *, ready: str) -> None:
    status = NodeStatus(conditions=(NodeCondition(type="Ready", status=ready),))
    made.nodes._take(Applied(Node(metadata=ObjectMeta(name=NODE, uid="node"), status=status)))


def seen(late: Pod, *, ready: str = "True") -> NodeView:
    """With a claim for the pod, whose deletion was seen just now."""
    made = view(late)
    made.claims._take(Applied(claim()))
    say_of_node(made, ready=ready)
    assert made.overdue.find([late]) == ()
    return made


async def test_a_pod_that_outstays_its_grace_period_by_far_uses_nothing_any_more() -> None:
    late = deleted()
    made = seen(late)
    assert made.overdue.patience([late]) == 5 + OVERDUE
    await asyncio.sleep(5 + OVERDUE - 1)
    assert made.overdue.find([late]) == ()
    assert made.matches.of(late)
    await asyncio.sleep(1)
    assert made.overdue.find([late]) == (late,)
    assert not made.matches.of(late)
    assert made.overdue.find([late]) == (), "it was told of twice"
    assert made.overdue.patience([late]) is None


async def test_while_its_kubelet_does_not_work_a_pod_is_not_overdue() -> None:
    late = deleted()
    made = seen(late, ready="Unknown")
    await asyncio.sleep(1000)
    assert made.overdue.find([late]) == ()
    assert made.overdue.patience([late]) == LOOK_AGAIN
    say_of_node(made, ready="True")
    assert made.overdue.find([late]) == (late,)


async def test_where_nothing_is_known_of_the_node_no_pod_is_overdue() -> None:
    late = deleted()
    made = view(late)
    made.overdue.find([late])
    await asyncio.sleep(1000)
    assert made.overdue.find([late]) == ()


async def test_without_a_word_on_its_grace_period_a_pod_has_the_usual_one() -> None:
    late = deleted(grace=None)
    assert seen(late).overdue.patience([late]) == 30 + OVERDUE


@pytest.mark.parametrize("stays", [pod(), deleted(phase="Failed")])
async def test_what_is_not_being_deleted_or_has_ended_is_never_overdue(stays: Pod) -> None:
    made = seen(stays)
    await asyncio.sleep(1000)
    assert made.overdue.find([stays]) == ()
    assert made.overdue.patience([stays]) is None


async def test_nothing_is_remembered_of_a_pod_that_has_gone() -> None:
    late = deleted()
    made = seen(late)
    await asyncio.sleep(1000)
    made.overdue.find([late])
    made.pods._take(Removed(late))
    assert not made.overdue.includes(late)
    assert (made.overdue._deleted_at, made.overdue._overdue) == ({}, set())
