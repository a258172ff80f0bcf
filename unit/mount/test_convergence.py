"""Cut off after each system call, repeated: publish, unpublish and release always get there."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable
from typing import Any

import pytest

from dynvol.mount import mountinfo, syscalls, targets
from dynvol.mount.targets import Placement
from unit.mount.test_targets import lay_out, publish, table_lines

pytestmark = pytest.mark.root

CALLS = [
    (syscalls, "mount"),
    (syscalls, "unmount"),
    (syscalls, "open_tree"),
    (syscalls, "set_attributes"),
    (syscalls, "move_mount"),
    (os, "mkdir"),
    (os, "chmod"),
    (os, "rmdir"),
]


class Killed(BaseException):
    """What the process feels when it is killed: nothing after this runs but what the kernel does."""


def killed_at(patch: pytest.MonkeyPatch, step: int, work: Callable[[], object], *, after: bool) -> bool:
    """Run `work` and kill it at its call number `step`, before or after the call. True if it got that far."""
    count = itertools.count()

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            number = next(count)
            if number > step or (number == step and not after):
                raise Killed
            result = function(*args, **kwargs)
            if number == step:
                raise Killed
            return result

        return call

    with patch.context() as context:
        for module, name in CALLS:
            context.setattr(module, name, wrapped(getattr(module, name)))
        try:
            work()
        except Killed:
            return True
    return False


def mounted_pod(playground: str) -> Placement:
    placement = lay_out(playground)
    publish(placement)
    for name in ("data", "more"):
        os.mkdir(f"{placement.workload_dir}/{name}")
        syscalls.mount(f"{placement.workload_dir}/{name}", source="bucket", fstype="tmpfs")
    return placement


@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
@pytest.mark.parametrize("modern", [True, False], ids=["detached", "staged"])
def test_publish_converges_from_every_intermediate_state(
    playground: str, monkeypatch: pytest.MonkeyPatch, after: bool, modern: bool
) -> None:
    monkeypatch.setattr(syscalls, "has_mount_api", lambda: modern)
    monkeypatch.setattr(tempfile, "tempdir", playground)
    placement = lay_out(playground)
    steps = 0
    while killed_at(monkeypatch, steps, lambda: publish(placement), after=after):
        publish(placement)
        assert targets.is_published(mountinfo.read(), placement)
        assert len(mountinfo.read().stack(placement.target)) == len(mountinfo.read().stack(placement.root)) == 1
        targets.unpublish(placement.target)
        assert targets.release_root(placement.root).left == ()
        steps += 1
    assert steps >= 10


@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
def test_unpublish_converges_from_every_intermediate_state(playground: str, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    placement = mounted_pod(playground)
    targets.unpublish(placement.target)
    idle = table_lines()
    publish(placement)
    steps = 0
    while killed_at(monkeypatch, steps, lambda: targets.unpublish(placement.target), after=after):
        targets.unpublish(placement.target)
        assert not os.path.exists(placement.target)
        assert table_lines() == idle
        publish(placement)
        steps += 1
    assert steps >= 4


@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
def test_a_half_unpublished_target_is_published_again_or_refused(
    playground: str, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """Kubelet may change its mind: after an interrupted unpublish comes a publish, and the view is whole or it says why not."""
    placement = mounted_pod(playground)
    steps = 0
    while killed_at(monkeypatch, steps, lambda: targets.unpublish(placement.target), after=after):
        publish(placement)
        assert targets.is_published(mountinfo.read(), placement)
        targets.unpublish(placement.target)
        publish(placement)
        assert mountinfo.read().at(f"{placement.target}/data") is not None
        steps += 1


@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
def test_release_converges_from_every_intermediate_state(playground: str, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    placement = lay_out(playground)
    idle = table_lines()
    steps = 0
    while True:
        publish(placement)
        os.makedirs(f"{placement.workload_dir}/a/b")
        targets.unpublish(placement.target)
        cut = killed_at(monkeypatch, steps, lambda: targets.release_root(placement.root), after=after)
        assert targets.release_root(placement.root).left == ()
        assert table_lines() == idle and not os.path.exists(placement.root)
        if not cut:
            break
        steps += 1
    assert steps >= 6
